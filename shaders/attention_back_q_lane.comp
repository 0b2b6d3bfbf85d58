// attention_back_q.comp by eight lanes (include/attention_lanes.glsl): a lane has a query to itself. OWN is 8.
#version 450
#include "attention_back_q.contract.glsl"
#include "include/attention_lanes.glsl"
#include "include/attention_score.glsl"

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window, lane = gl_SubgroupInvocationID;
    float scale = p.scale, cap = p.softcap;
    uint head = gl_WorkGroupID.y, kv_head = head / (heads / kv_heads), last = rows - 1u;
    uint start = gl_WorkGroupID.x * LANES, end = min(start + LANES, rows), row = start + lane, mine = min(row, last);
    uint stride = (heads + kv_heads) * QUADS, v_stride = stride + kv_heads * QUADS, y_stride = heads * QUADS;
    uint k_at = (heads + kv_head) * QUADS, v_at = k_at + kv_heads * QUADS, oldest = first[mine];
    float known_lse = lse[mine * heads + head], known_delta = delta[mine * heads + head];

    vec4 q[QUADS], dy[QUADS], sums[SUMS];
    LOAD_OWNED(qk_texels, mine * stride + head * QUADS, q)
    LOAD_OWNED(dy_texels, mine * y_stride + head * QUADS, dy)
    [[unroll]] for (uint i = 0u; i < SUMS; i++) sums[i] = vec4(0.0);

    uint key = first[start];                 // sequences follow each other: the first row's begins first
    if (window != 0u && start - key >= window) key = start - window + 1u;
    do {
        float score[VIS], pulled[VIS];
        [[unroll]] for (uint j = 0u; j < VIS; j++) score[j] = pulled[j] = 0.0;
        vec4 visitors[VISITED];
        LOAD_VISITORS(qkv_texels, key, last, v_stride, v_at, visitors)
        multiply(dy, visitors, pulled);
        LOAD_VISITORS(qk_texels, key, last, stride, k_at, visitors)
        multiply(q, visitors, score);
        [[unroll]] for (uint j = 0u; j < VIS; j++) {
            float s = scored(score[j], scale, cap);
            float w = sees(row, key + j, oldest, window) ? exp(s - known_lse) : 0.0;
            score[j] = w * (pulled[j] - known_delta) * slope(s, scale, cap);
        }
        add_visitors(score, visitors, sums);
        key += VIS;
    } while (key < end);

    [[unroll]] for (uint l = 0u; l < LANES; l++) {
        [[unroll]] for (uint s = 0u; s < SHARES; s++) {
            uint quad = s * LANES + lane;
            if (start + l >= end || quad >= QUADS) continue;
            dqk4[(start + l) * stride + head * QUADS + quad] = sums[l * SHARES + s];
        }
    }
}
