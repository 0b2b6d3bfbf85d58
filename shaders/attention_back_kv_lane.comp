// attention_back_kv.comp by eight lanes (include/attention_lanes.glsl): a lane has a key to itself, the rows that see it
// visit. OWN is 8.
#version 450
#include "attention_back_kv.contract.glsl"
#include "include/attention_lanes.glsl"
#include "include/attention_score.glsl"

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window, lane = gl_SubgroupInvocationID;
    float scale = p.scale, cap = p.softcap;
    uint kv_head = gl_WorkGroupID.y, group = heads / kv_heads, newest = rows - 1u;
    uint start = gl_WorkGroupID.x * LANES, end = min(start + LANES, rows), row = start + lane, mine = min(row, newest);
    uint stride = (heads + kv_heads) * QUADS, v_stride = stride + kv_heads * QUADS, y_stride = heads * QUADS;
    uint k_at = (heads + kv_head) * QUADS, v_at = k_at + kv_heads * QUADS, behind = last[mine];

    vec4 k[QUADS], v[QUADS], dk[SUMS], dv[SUMS];
    LOAD_OWNED(qk_texels, mine * stride + k_at, k)
    LOAD_OWNED(qkv_texels, mine * v_stride + v_at, v)
    [[unroll]] for (uint i = 0u; i < SUMS; i++) dk[i] = dv[i] = vec4(0.0);

    uint stop = last[end - 1u], head = kv_head * group, head_end = head + group;
    if (window != 0u) stop = min(stop, end - 1u + min(window, rows));
    do {
        uint query = start;
        do {
            uint at = min(query + lane, newest) * heads + head;  // a lane has these numbers of one visitor
            float lane_lse = lse[at], lane_delta = delta[at], score[VIS], pulled[VIS];
            [[unroll]] for (uint j = 0u; j < VIS; j++) score[j] = pulled[j] = 0.0;
            vec4 dy[VISITED], q[VISITED];
            LOAD_VISITORS(dy_texels, query, newest, y_stride, head * QUADS, dy)
            multiply(v, dy, pulled);
            LOAD_VISITORS(qk_texels, query, newest, stride, head * QUADS, q)
            multiply(k, q, score);
            [[unroll]] for (uint j = 0u; j < VIS; j++) {
                float known_lse = subgroupShuffle(lane_lse, j), known_delta = subgroupShuffle(lane_delta, j);
                float s = scored(score[j], scale, cap);
                bool seen = query + j < behind && sees(query + j, row, 0u, window);
                float w = seen ? exp(s - known_lse) : 0.0;
                score[j] = w;
                pulled[j] = w * (pulled[j] - known_delta) * slope(s, scale, cap);
            }
            add_visitors(score, dy, dv);
            add_visitors(pulled, q, dk);
            query += VIS;
        } while (query < stop);
    } while (++head < head_end);

    [[unroll]] for (uint l = 0u; l < LANES; l++) {
        [[unroll]] for (uint s = 0u; s < SHARES; s++) {
            uint quad = s * LANES + lane;
            if (start + l >= end || quad >= QUADS) continue;
            dqk4[(start + l) * stride + k_at + quad] = dk[l * SHARES + s];
            dqkv4[(start + l) * v_stride + v_at + quad] = dv[l * SHARES + s];
        }
    }
}
