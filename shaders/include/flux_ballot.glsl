// What each agent's score adds to a candidate, and what the sum of all is as a logit. Expects the buffers score, tally,
// swarm, weight, trust and p.A, p.C, p.P; after sample_math.glsl, flux_swarm.glsl and flux_weight.glsl.

const float TERM_MAX = 4e37;    // so that the sum of eight stays finite

struct Ballot {
    uint row;
    uint slot;
    uint n;         // candidates
    uint agents;
    uint mode;
    float whole;    // sum of effective weights
};

Ballot open_ballot(uint row, uint slot, uint n) {
    uint mode = swarm[slot * SWARM_WORDS + SWARM_MODE];
    return Ballot(row, slot, n, min(agents_of(slot), p.A), mode, all_weight(slot));
}

// Candidates with a lower score of this agent than candidate c.
float points(Ballot b, uint agent, uint c) {
    uint at = (b.row * p.A + agent) * p.C, below = 0u;
    float own = score[at + c];
    for (uint i = 0u; i < b.n; i++) below += score[at + i] < own ? 1u : 0u;
    return float(below);
}

float contribution(Ballot b, uint agent, uint c, uint id) {
    float e = effective(b.slot, agent), own = score[(b.row * p.A + agent) * p.C + c];
    uvec4 t = tally[b.row * p.A + agent];
    if (b.mode == MODE_SUM) {
        precise float term = e * own;
        return clamp(term, -TERM_MAX, TERM_MAX);
    }
    precise float share = e / b.whole, part = t.y == id ? 1.0 : 0.0;
    if (b.mode == MODE_BORDA) part = points(b, agent, c);
    if (b.mode == MODE_PROB) {
        precise float d = own - uintBitsToFloat(t.x);
        precise float mass = float(t.w) * 4294967296.0;
        mass += float(t.z);
        part = exp_neg(d) * 1099511627776.0 / mass;
    }
    share *= part;
    return share;
}

float total_of(Ballot b, uint c, uint id) {
    precise float sum = 0.0;
    for (uint a = 0u; a < b.agents; a++) sum += contribution(b, a, c, id);
    return sum;
}

float consensus_of(Ballot b, float total) {
    if (b.mode == MODE_SUM || b.mode == MODE_BORDA) return total;
    return total < 1.18e-38 ? uintBitsToFloat(NEG_INF_BITS) : log_pos(total);
}
