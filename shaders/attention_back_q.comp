// The gradient of OWN queries of one head, over the rows that they see: weights come back as exp(score - lse), with p their
// gradient's product ds = p (dp - delta), and dq = sum of ds k. Nothing is kept but the tiles.
#version 450
#include "attention_back_q.contract.glsl"
#include "include/attention_tile.glsl"
#include "include/attention_score.glsl"

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window;
    float scale = p.scale, cap = p.softcap;
    uint head = gl_WorkGroupID.y, kv_head = head / (heads / kv_heads), start = gl_WorkGroupID.x * OWN;
    uint qk_stride = (heads + kv_heads) * UNITS, v_stride = (heads + 2u * kv_heads) * UNITS, y_stride = heads * UNITS;
    uint last = rows - 1u, end = min(start + OWN, rows);

    uint row[MINE], oldest[MINE];
    float known_lse[MINE], known_delta[MINE];
    vec4 sum[CHUNKS * MINE];
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        row[i] = start + tile_y() + 16u * i;
        oldest[i] = first[min(row[i], last)];
        known_lse[i] = lse[min(row[i], last) * heads + head];
        known_delta[i] = delta[min(row[i], last) * heads + head];
    }
    [[unroll]] for (uint i = 0u; i < CHUNKS * MINE; i++) sum[i] = vec4(0.0);

    uint low = first[start];                 // sequences follow each other: the first row's begins first
    if (window != 0u && start - low >= window) low = start - window + 1u;
    for (uint key = low; key < end; key += VIS) {
        float score[SCORES], pulled[SCORES];
        [[unroll]] for (uint i = 0u; i < SCORES; i++) score[i] = pulled[i] = 0.0;
        for (uint c = 0u; c < CHUNKS; c++) {
            barrier();
            LOAD_TILE(own_tile, OWN, qk4, start, last, qk_stride, head * UNITS, c)
            LOAD_TILE(visitor_tile, VIS, qk4, key, last, qk_stride, (heads + kv_head) * UNITS, c)
            barrier();
            multiply_tiles(score);
            barrier();
            LOAD_TILE(own_tile, OWN, dy4, start, last, y_stride, head * UNITS, c)
            LOAD_TILE(visitor_tile, VIS, qkv4, key, last, v_stride, (heads + kv_heads + kv_head) * UNITS, c)
            barrier();
            multiply_tiles(pulled);
        }
        [[unroll]] for (uint i = 0u; i < MINE; i++) {
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                float s = scored(score[i * 4u + j], scale, cap);
                bool seen = sees(row[i], key + tile_x() + 8u * j, oldest[i], window);
                float w = seen ? exp(s - known_lse[i]) : 0.0;
                score[i * 4u + j] = w * (pulled[i * 4u + j] - known_delta[i]) * slope(s, scale, cap);
            }
        }
        barrier();
        put_weights(score);
        [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
            barrier();
            LOAD_TILE(visitor_tile, VIS, qk4, key, last, qk_stride, (heads + kv_head) * UNITS, c)
            barrier();
            vec4 part[MINE];
            [[unroll]] for (uint i = 0u; i < MINE; i++) part[i] = sum[c * MINE + i];
            add_visitors(part);
            [[unroll]] for (uint i = 0u; i < MINE; i++) sum[c * MINE + i] = part[i];
        }
    }
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        if (row[i] >= end) continue;
        [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
            uint unit = c * LINE + tile_x();
            if (unit < UNITS) dqk4[row[i] * qk_stride + head * UNITS + unit] = sum[c * MINE + i];
        }
    }
}
