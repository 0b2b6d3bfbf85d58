// Effective weights of a slot's agents. Expects the buffers swarm, weight, trust and p.P.

float effective(uint slot, uint agent) {
    precise float e = weight[slot * p.P + agent] * trust[slot * p.P + agent];
    return e;
}

uint agents_of(uint slot) { return min(swarm[slot * SWARM_WORDS + SWARM_AGENTS], p.P); }

float all_weight(uint slot) {
    precise float sum = 0.0;
    uint n = agents_of(slot);
    for (uint a = 0u; a < n; a++) sum += effective(slot, a);
    return sum;
}
