// The gradients of OWN keys and values of one KV head: over the heads of its group, and for each over the rows that see
// them, in this order. No two workgroups write the same row, so the sums have one order.
#version 450
#include "attention_back_kv.contract.glsl"
#include "include/attention_tile.glsl"
#include "include/attention_score.glsl"

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window;
    float scale = p.scale, cap = p.softcap;
    uint kv_head = gl_WorkGroupID.y, group = heads / kv_heads, start = gl_WorkGroupID.x * OWN;
    uint qk_stride = (heads + kv_heads) * UNITS, v_stride = (heads + 2u * kv_heads) * UNITS, y_stride = heads * UNITS;
    uint k_at = (heads + kv_head) * UNITS, v_at = k_at + kv_heads * UNITS;
    uint newest = rows - 1u, end = min(start + OWN, rows);

    uint row[MINE], behind[MINE];            // an owned key, and the row behind the last of its sequence
    vec4 dk[CHUNKS * MINE], dv[CHUNKS * MINE];
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        row[i] = start + tile_y() + 16u * i;
        behind[i] = last[min(row[i], newest)];
    }
    [[unroll]] for (uint i = 0u; i < CHUNKS * MINE; i++) dk[i] = dv[i] = vec4(0.0);

    uint stop = last[end - 1u];
    if (window != 0u) stop = min(stop, end - 1u + min(window, rows));
    for (uint head = kv_head * group; head < (kv_head + 1u) * group; head++) {
        for (uint query = start; query < stop; query += VIS) {
            float score[SCORES], pulled[SCORES];
            [[unroll]] for (uint i = 0u; i < SCORES; i++) score[i] = pulled[i] = 0.0;
            for (uint c = 0u; c < CHUNKS; c++) {
                barrier();
                LOAD_TILE(own_tile, OWN, qk4, start, newest, qk_stride, k_at, c)
                LOAD_TILE(visitor_tile, VIS, qk4, query, newest, qk_stride, head * UNITS, c)
                barrier();
                multiply_tiles(score);
                barrier();
                LOAD_TILE(own_tile, OWN, qkv4, start, newest, v_stride, v_at, c)
                LOAD_TILE(visitor_tile, VIS, dy4, query, newest, y_stride, head * UNITS, c)
                barrier();
                multiply_tiles(pulled);
            }
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint t = query + tile_x() + 8u * j, at = min(t, newest) * heads + head;
                float known_lse = lse[at], known_delta = delta[at];
                [[unroll]] for (uint i = 0u; i < MINE; i++) {
                    float s = scored(score[i * 4u + j], scale, cap);
                    bool seen = t < behind[i] && sees(t, row[i], 0u, window);
                    float w = seen ? exp(s - known_lse) : 0.0;
                    score[i * 4u + j] = w;
                    pulled[i * 4u + j] = w * (pulled[i * 4u + j] - known_delta) * slope(s, scale, cap);
                }
            }
            barrier();
            put_weights(score);
            [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
                barrier();
                LOAD_TILE(visitor_tile, VIS, dy4, query, newest, y_stride, head * UNITS, c)
                barrier();
                vec4 part[MINE];
                [[unroll]] for (uint i = 0u; i < MINE; i++) part[i] = dv[c * MINE + i];
                add_visitors(part);
                [[unroll]] for (uint i = 0u; i < MINE; i++) dv[c * MINE + i] = part[i];
            }
            barrier();
            put_weights(pulled);
            [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
                barrier();
                LOAD_TILE(visitor_tile, VIS, qk4, query, newest, qk_stride, head * UNITS, c)
                barrier();
                vec4 part[MINE];
                [[unroll]] for (uint i = 0u; i < MINE; i++) part[i] = dk[c * MINE + i];
                add_visitors(part);
                [[unroll]] for (uint i = 0u; i < MINE; i++) dk[c * MINE + i] = part[i];
            }
        }
    }
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        if (row[i] >= end) continue;
        [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
            uint unit = c * LINE + tile_x();
            if (unit >= UNITS) continue;
            dqk4[row[i] * qk_stride + k_at + unit] = dk[c * MINE + i];
            dqkv4[row[i] * v_stride + v_at + unit] = dv[c * MINE + i];
        }
    }
}
