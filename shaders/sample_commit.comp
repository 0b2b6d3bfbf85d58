#version 450
#include "sample_commit.contract.glsl"
#include "include/sample_math.glsl"

// One workgroup per row: put the logits back as the model left them, then write the token everywhere it is needed.

void put_back(uint row, uint entry) {
    uvec2 kept = saved[row * (p.B + p.H) + entry];
    if (kept.x < p.V) logits[row * p.V + kept.x] = uintBitsToFloat(kept.y);
}

void main() {
    uint row = gl_WorkGroupID.x, tid = gl_LocalInvocationIndex;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint at = slot * P_WORDS;
    uint seen = hist_count[slot];
    uint n = min(min(params[at + P_LAST_N], seen), p.H);
    uint biases = min(params[at + P_BIAS_COUNT], p.B);
    // In the reverse order of the changes: a token may have had a bias and a penalty.
    for (uint i = tid; i < n && p.restore != 0u; i += WG) put_back(row, p.B + i);
    memoryBarrierBuffer();
    barrier();
    for (uint e = tid; e < biases && p.restore != 0u; e += WG) put_back(row, e);
    memoryBarrierBuffer();
    barrier();

    uvec2 chosen = picked[row];
    uint token = chosen.x, pos = row_pos[row] + 1u;
    uint entry = slot * p.RING + pos % p.RING;
    if (tid == 0u) {
        slot_token[slot] = token;
        slot_pos[slot] = pos;
        history[slot * p.H + seen % p.H] = token;
        hist_count[slot] = seen + 1u;
        ring[entry] = token;
        if (chosen.y != 0u && status[slot] == 0u) status[slot] = pos;
    }
    uint want = min(min(params[at + P_LOGPROBS], TOP_MAX), p.V);
    if (want == 0u || p.has_top == 0u) return;
    for (uint w = tid; w < 2u + 2u * want; w += WG) {
        uint word = top[row * TOP_WORDS + w];
        if (w == 1u) {
            uint key = key_of(logits[row * p.V + token]);
            word = floatBitsToUint(key > KEY_NEG_INF ? value_of(key) - uintBitsToFloat(word) : value_of(KEY_NEG_INF));
        }
        lp_ring[entry * TOP_WORDS + w] = word;
    }
}
