#version 450
#include "sample_stats.contract.glsl"
#include "include/sample_row.glsl"

// One thread: one block of 64 logits; its largest key and, with `sums`, the sum of exp(logit - largest).

float part(uint key, float top) {
    return key > KEY_NEG_INF ? exp_neg(value_of(key) - top) : 0.0;
}

void main() {
    uint row = gl_WorkGroupID.y;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    if (p.has_sums != 0u && params[slot * P_WORDS + P_LOGPROBS] == 0u) return;
    uint base = gl_WorkGroupID.x * BLOCK_LANES * BLOCK_VECS + gl_LocalInvocationID.x;
    uint block = row * p.NB + gl_WorkGroupID.x * BLOCK_LANES + gl_LocalInvocationID.x;
    uvec4 best = uvec4(0u);
    for (uint j = 0u; j < BLOCK_VECS; j++) best = max(best, load_keys(row, base + BLOCK_LANES * j));
    uint key = max(max(best.x, best.y), max(best.z, best.w));
    maxima[block] = key;
    if (p.has_sums == 0u) return;
    float top = value_of(max(key, KEY_NEG_INF)), sum = 0.0;
    for (uint j = 0u; j < BLOCK_VECS; j++) {
        uvec4 k = load_keys(row, base + BLOCK_LANES * j);
        sum += part(k.x, top) + part(k.y, top) + part(k.z, top) + part(k.w, top);
    }
    sums[block] = sum;
}
