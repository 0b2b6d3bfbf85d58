// Writing a row's words of row_info. Expects the buffers row_pos, params, parts, row_info and p.G; after flux_swarm.glsl.

// Largest logit, entropy and logsumexp from the parts of flux_moments, added up in their order; -inf, 0, -inf where no
// logit is finite.
vec3 moments(uint row) {
    float top = uintBitsToFloat(NEG_INF_BITS);
    for (uint g = 0u; g < p.G; g++) top = max(top, parts[row * p.G + g].x);
    precise float sum = 0.0, dot_ = 0.0;
    for (uint g = 0u; g < p.G; g++) {
        vec4 part = parts[row * p.G + g];
        if (part.y > 0.0) {
            precise float lower = part.x - top;
            precise float share = exp_neg(lower);
            sum += share * part.y;
            dot_ += share > 0.0 ? share * (part.z + lower * part.y) : 0.0;
        }
    }
    if (!(sum > 0.0)) return vec3(top, 0.0, top);
    precise float ln = log_pos(sum);
    precise float entropy = ln - dot_ / sum;
    precise float lse = top + ln;
    return vec3(top, max(entropy, 0.0), lse);
}

void write_info(uint row, uint slot, uint n) {
    bool idle = slot >= p.S || n == 0u;
    vec3 m = idle ? vec3(0.0) : moments(row);
    uint at = row * INFO_WORDS;
    row_info[at + INFO_N] = n;
    row_info[at + INFO_BEST] = floatBitsToUint(m.x);
    row_info[at + INFO_ENTROPY] = floatBitsToUint(m.y);
    row_info[at + INFO_LSE] = floatBitsToUint(m.z);
    row_info[at + INFO_POS] = row_pos[row] + 1u;
    row_info[at + INFO_SEED_LO] = slot < p.S ? params[slot * P_WORDS + P_SEED_LO] : 0u;
    row_info[at + INFO_SEED_HI] = slot < p.S ? params[slot * P_WORDS + P_SEED_HI] : 0u;
    row_info[at + INFO_SLOT] = slot;
}

// Most candidates that the row's slot asks for.
uint wanted(uint slot) {
    uint agents = swarm[slot * SWARM_WORDS + SWARM_AGENTS];
    uint n = swarm[slot * SWARM_WORDS + SWARM_CANDIDATES];
    return agents == 0u ? 0u : min(min(n, p.C), p.V);
}
