// attention_train.comp by eight lanes (include/attention_lanes.glsl): a lane has a row to itself, so the softmax needs no
// other lane. Sequence by sequence, as there. OWN is 8.
#version 450
#include "attention_train.contract.glsl"
#include "include/attention_lanes.glsl"
#include "include/attention_score.glsl"

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window, lane = gl_SubgroupInvocationID;
    float scale = p.scale, cap = p.softcap;
    uint head = gl_WorkGroupID.y, kv_head = head / (heads / kv_heads);
    uint start = gl_WorkGroupID.x * LANES, end = min(start + LANES, rows), row = start + lane, mine = min(row, rows - 1u);
    uint stride = (heads + kv_heads) * QUADS, v_stride = stride + kv_heads * QUADS;
    uint k_at = (heads + kv_head) * QUADS, v_at = k_at + kv_heads * QUADS, oldest = first[mine];

    vec4 owned[QUADS], sums[SUMS];
    LOAD_OWNED(qk_texels, mine * stride + head * QUADS, owned)
    [[unroll]] for (uint i = 0u; i < SUMS; i++) sums[i] = vec4(0.0);
    precise float top = LOWEST, total = 0.0;

    uint from = start;
    do {                                             // rows from ... to - 1 are of one sequence
        uint sequence = first[from], to = from + 1u;
        while (to < end && first[to] == sequence) to++;
        uint low = window == 0u || from - sequence < window ? 0u : from - sequence - window + 1u;
        uint key = sequence + low / VIS * VIS;       // blocks of keys begin at multiples from the sequence's first row
        do {
            float score[VIS];
            bool seen[VIS];
            [[unroll]] for (uint j = 0u; j < VIS; j++) score[j] = 0.0;
            vec4 visitors[VISITED];
            LOAD_VISITORS(qk_texels, key, to - 1u, stride, k_at, visitors)
            multiply(owned, visitors, score);
            precise float high = top;
            [[unroll]] for (uint j = 0u; j < VIS; j++) {
                seen[j] = oldest == sequence && sees(row, key + j, sequence, window);
                score[j] = seen[j] ? scored(score[j], scale, cap) : LOWEST;
                high = max(high, score[j]);
            }
            precise float fade = exp(top - high);
            top = high;
            total *= fade;
            [[unroll]] for (uint j = 0u; j < VIS; j++) {
                score[j] = seen[j] ? exp(score[j] - high) : 0.0;
                total += score[j];
            }
            [[unroll]] for (uint l = 0u; l < LANES; l++) {
                float row_fade = subgroupShuffle(fade, l);
                [[unroll]] for (uint s = 0u; s < SHARES; s++) sums[l * SHARES + s] *= row_fade;
            }
            LOAD_VISITORS(qkv_texels, key, to - 1u, v_stride, v_at, visitors)
            add_visitors(score, visitors, sums);
            key += VIS;
        } while (key < to);
        from = to;
    } while (from < end);

    precise float inverse = 1.0 / total;
    if (row < end) lse[row * heads + head] = top + log(total);
    [[unroll]] for (uint l = 0u; l < LANES; l++) {
        float row_inverse = subgroupShuffle(inverse, l);
        [[unroll]] for (uint s = 0u; s < SHARES; s++) {
            uint quad = s * LANES + lane;
            if (start + l >= end || quad >= QUADS) continue;
            y4[((start + l) * heads + head) * QUADS + quad] = sums[l * SHARES + s] * row_inverse;
        }
    }
}
