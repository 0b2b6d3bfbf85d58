#version 450
#include "sample_top.contract.glsl"
#include "include/sample_collect.glsl"
#include "include/sample_select.glsl"
#include "include/sample_exact.glsl"

// One workgroup per row that asks for log-probabilities: the most likely tokens of softmax(logits), before bias and
// penalties, and the logsumexp that sample_commit needs for the token that was drawn.

shared float s_sum[WG];

// logsumexp from the block maxima and sums, added up in a fixed order.
float log_sum(uint row, float top) {
    uint tid = gl_LocalInvocationIndex;
    float sum = 0.0;
    for (uint b = tid; b < p.NB; b += WG) {
        uint key = maxima[row * p.NB + b];
        if (key > KEY_NEG_INF) sum += sums[row * p.NB + b] * exp_neg(value_of(key) - top);
    }
    s_sum[tid] = sum;
    barrier();
    for (uint step = WG / 2u; step > 0u; step /= 2u) {
        if (tid < step) s_sum[tid] += s_sum[tid + step];
        barrier();
    }
    return top + log_pos(s_sum[0]);
}

void main() {
    uint row = gl_WorkGroupID.x, tid = gl_LocalInvocationIndex;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint want = min(min(params[slot * P_WORDS + P_LOGPROBS], TOP_MAX), p.V);
    if (want == 0u) return;
    uint highest = row_max(row);
    bool finite = highest > KEY_NEG_INF;
    float lse = finite ? log_sum(row, value_of(highest)) : 0.0;
    uint n = collect(row, kth_bound(row, want, highest));
    if (n > CAP) {
        collect_exact(row, want);
        n = s_n;
    }
    uint at = row * TOP_WORDS;
    if (tid == 0u) {
        top[at] = want;
        top[at + 1u] = floatBitsToUint(lse);
    }
    for (uint i = tid; i < n; i += WG) {
        uint key = s_key[i], id = s_id[i], rank = 0u;
        for (uint j = 0u; j < n; j++) rank += s_key[j] > key || (s_key[j] == key && s_id[j] < id) ? 1u : 0u;
        if (rank < want) {
            top[at + 2u + 2u * rank] = id;
            top[at + 3u + 2u * rank] = floatBitsToUint(finite && key > KEY_NEG_INF ? value_of(key) - lse : value_of(KEY_NEG_INF));
        }
    }
}
