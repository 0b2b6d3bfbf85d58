// Attention of OWN rows of one head over the rows that they see, by tiles in shared memory: online softmax, of which only
// lse is kept. Rows of several sequences in one tile are done sequence by sequence, because where a block of keys begins
// decides the last bits: so a row's result is the same in a packed batch and alone.
#version 450
#include "attention_train.contract.glsl"
#include "include/attention_tile.glsl"
#include "include/attention_score.glsl"

shared float row_top[OWN * 8u];

// The largest of the eight invocations that share a row, or their sum in order.
void share(inout float value[MINE], bool add) {
    barrier();
    [[unroll]] for (uint i = 0u; i < MINE; i++) row_top[(tile_y() + 16u * i) * 8u + tile_x()] = value[i];
    barrier();
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        uint at = (tile_y() + 16u * i) * 8u;
        float all = row_top[at];
        for (uint x = 1u; x < 8u; x++) all = add ? all + row_top[at + x] : max(all, row_top[at + x]);
        value[i] = all;
    }
}

void main() {
    uint rows = p.T, heads = p.heads, kv_heads = p.kv_heads, window = p.window;
    float scale = p.scale, cap = p.softcap;
    uint head = gl_WorkGroupID.y, kv_head = head / (heads / kv_heads), start = gl_WorkGroupID.x * OWN;
    uint in_stride = (heads + kv_heads) * UNITS, v_stride = (heads + 2u * kv_heads) * UNITS;
    uint last = rows - 1u, end = min(start + OWN, rows);

    uint row[MINE], oldest[MINE];
    float top[MINE], total[MINE];
    vec4 sum[CHUNKS * MINE];
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        row[i] = start + tile_y() + 16u * i;
        oldest[i] = first[min(row[i], last)];
        top[i] = LOWEST;
        total[i] = 0.0;
    }
    [[unroll]] for (uint i = 0u; i < CHUNKS * MINE; i++) sum[i] = vec4(0.0);

    uint from = start;
    while (from < end) {                     // the rows from ... to - 1 of the tile are of one sequence
        uint sequence = first[from], to = from + 1u;
        while (to < end && first[to] == sequence) to++;
        // Blocks of keys begin at multiples of VIS from the sequence's first row.
        uint low = window == 0u || from - sequence < window ? 0u : from - sequence - window + 1u;
        for (uint key = sequence + low / VIS * VIS; key < to; key += VIS) {
            float score[SCORES];
            [[unroll]] for (uint i = 0u; i < SCORES; i++) score[i] = 0.0;
            for (uint c = 0u; c < CHUNKS; c++) {
                barrier();
                LOAD_TILE(own_tile, OWN, qk4, start, last, in_stride, head * UNITS, c)
                LOAD_TILE(visitor_tile, VIS, qk4, key, to - 1u, in_stride, (heads + kv_head) * UNITS, c)
                barrier();
                multiply_tiles(score);
            }
            float high[MINE];
            [[unroll]] for (uint i = 0u; i < MINE; i++) {
                high[i] = top[i];
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    uint at = key + tile_x() + 8u * j;
                    bool seen = oldest[i] == sequence && sees(row[i], at, sequence, window);
                    float s = seen ? scored(score[i * 4u + j], scale, cap) : LOWEST;
                    score[i * 4u + j] = s;
                    high[i] = max(high[i], s);
                }
            }
            share(high, false);
            [[unroll]] for (uint i = 0u; i < MINE; i++) {
                precise float fade = exp(top[i] - high[i]), all = total[i] * fade;
                top[i] = high[i];
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    uint at = key + tile_x() + 8u * j;
                    bool seen = oldest[i] == sequence && sees(row[i], at, sequence, window);
                    precise float w = seen ? exp(score[i * 4u + j] - high[i]) : 0.0;
                    all += w;
                    score[i * 4u + j] = w;
                }
                total[i] = all;
                [[unroll]] for (uint c = 0u; c < CHUNKS; c++) sum[c * MINE + i] *= fade;
            }
            put_weights(score);
            [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
                barrier();
                LOAD_TILE(visitor_tile, VIS, qkv4, key, to - 1u, v_stride, (heads + kv_heads + kv_head) * UNITS, c)
                barrier();
                vec4 part[MINE];
                [[unroll]] for (uint i = 0u; i < MINE; i++) part[i] = sum[c * MINE + i];
                add_visitors(part);
                [[unroll]] for (uint i = 0u; i < MINE; i++) sum[c * MINE + i] = part[i];
            }
        }
        from = to;
    }
    share(total, true);
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        if (row[i] >= end) continue;
        if (tile_x() == 0u) lse[row[i] * heads + head] = top[i] + log(total[i]);
        [[unroll]] for (uint c = 0u; c < CHUNKS; c++) {
            uint unit = c * LINE + tile_x();
            if (unit < UNITS) y4[(row[i] * heads + head) * UNITS + unit] = sum[c * MINE + i] / total[i];
        }
    }
}
