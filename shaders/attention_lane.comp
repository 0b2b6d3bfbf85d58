// Attention for few-lane devices where a load costs a branch and a few instructions for every lane and word (llvmpipe):
// eight lanes, no shared memory. A lane scores every eighth key of a page; the queries are loaded once by the eight lanes
// together and handed round by shuffles, and so are the weights, with the head's elements spread over the lanes.
// For head sizes that are multiples of 32 and subgroups of at least eight. Otherwise as attention.comp: nothing depends
// on other rows, pages come in the order of their positions.
#version 450
#include "attention.contract.glsl"
#include "include/softcap.glsl"

const float LOWEST = -3.0e38;
const uint LANES = 8u;
const uint KEYS = PS / LANES;               // keys of a page scored by one lane
const uint UNITS = HEAD_DIM / (4u * LANES); // vec4 of the result that a lane owns: elements (unit * LANES + lane) * 4 ...
const uint BLOCK = 4u;                      // rows of values taken at a time

uvec2 words(uint64_t v) { return uvec2(uint(v), uint(v >> 32)); }

// Eight elements of a key, four of a value.
void load_key(uint at, out float k[8]) {
#ifdef KV_F16
    u64vec2 bits = k_8[at];
    uvec4 w = uvec4(words(bits.x), words(bits.y));
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        vec2 two = unpackHalf2x16(w[i]);
        k[2u * i] = two.x;
        k[2u * i + 1u] = two.y;
    }
#else
    u64vec4 bits = k_8[at];
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        vec2 two = uintBitsToFloat(words(bits[i]));
        k[2u * i] = two.x;
        k[2u * i + 1u] = two.y;
    }
#endif
}

vec4 load_value(uint at) {
#ifdef KV_F16
    uvec2 w = words(v_4[at]);
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
#else
    u64vec2 bits = v_4[at];
    return uintBitsToFloat(uvec4(words(bits.x), words(bits.y)));
#endif
}

void main() {
    // Push constants are read here, once: inside control flow llvmpipe gathers them lane by lane.
    uint heads = p.heads, kv_heads = p.kv_heads, slots = p.slots, max_pages = p.max_pages, window = p.window;
    uint q_stride = p.q_stride;
    float scale = p.scale, cap = p.softcap;
    uint row = gl_WorkGroupID.x, lane = gl_SubgroupInvocationID;
    uint group = heads / kv_heads, blocks = (group + GROUP - 1u) / GROUP;
    uint kv_head = gl_WorkGroupID.y / blocks;
    uint first_head = kv_head * group + gl_WorkGroupID.y % blocks * GROUP;
    uint heads_here = min(GROUP, (kv_head + 1u) * group - first_head);

    uint slot_id = slot[row], position = pos[row];
    bool padding = slot_id >= slots;
    uvec4 info = slot_info4[padding ? 0u : slot_id];
    uint sinks = info.x, dropped = info.y;
    uint oldest = window == 0u || position < window ? 0u : position - window + 1u;
    uint newest_page = position / PS, oldest_page = oldest / PS;
    uint last = newest_page - (newest_page >= sinks ? dropped : 0u);
    uint entry = oldest_page;
    if (oldest_page >= sinks) entry = oldest_page >= sinks + dropped ? oldest_page - dropped : sinks;
    uint end = padding ? 0u : min(last + 1u, max_pages);

    uint q_at[GROUP];                       // a block that is not full does its last head again and drops it
    float top[GROUP], total[GROUP];
    vec4 sum[GROUP * UNITS];
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        q_at[g] = row * q_stride + (first_head + min(g, heads_here - 1u)) * HEAD_DIM + lane;
        top[g] = LOWEST;
        total[g] = 0.0;
    }
    [[unroll]] for (uint i = 0u; i < GROUP * UNITS; i++) sum[i] = vec4(0.0);

    for (; entry < end; entry++) {
        uint page_start = (entry < sinks ? entry : entry + dropped) * PS;
        uint begin_key = max(oldest, page_start) - page_start;
        uint end_key = min(PS, position + 1u - page_start);
        uint base = (pages[slot_id * max_pages + entry] * kv_heads + kv_head) * PS;

        float e[GROUP * KEYS];              // scores, then weights
        [[unroll]] for (uint i = 0u; i < GROUP * KEYS; i++) e[i] = 0.0;
        for (uint c = 0u; c < HEAD_DIM / 8u; c++) {
            float k[KEYS * 8];
            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                float eight[8];
                load_key((base + j * LANES + lane) * (HEAD_DIM / 8u) + c, eight);
                [[unroll]] for (uint i = 0u; i < 8u; i++) k[j * 8u + i] = eight[i];
            }
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                float mine = q[q_at[g] + c * 8u];
                [[unroll]] for (uint i = 0u; i < 8u; i++) {
                    float query = subgroupShuffle(mine, i);
                    [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                        e[g * KEYS + j] = fma(query, k[j * 8u + i], e[g * KEYS + j]);
                    }
                }
            }
        }

        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            float high = top[g];
            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                uint key = j * LANES + lane;
                float s = e[g * KEYS + j] * scale;
                if (cap > 0.0) s = soft_cap(s, cap);
                s = key >= begin_key && key < end_key ? clamp(s, LOWEST, -LOWEST) : LOWEST;
                e[g * KEYS + j] = s;
                high = max(high, s);
            }
            high = max(high, subgroupShuffleXor(high, 1u));
            high = max(high, subgroupShuffleXor(high, 2u));
            high = max(high, subgroupShuffleXor(high, 4u));
            float fade = exp(top[g] - high);
            top[g] = high;
            total[g] *= fade;
            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                uint key = j * LANES + lane;
                float w = key >= begin_key && key < end_key ? exp(e[g * KEYS + j] - high) : 0.0;
                total[g] += w;
                e[g * KEYS + j] = w;
            }
            [[unroll]] for (uint u = 0u; u < UNITS; u++) sum[g * UNITS + u] *= fade;
        }

        for (uint first = 0u; first < end_key; first += LANES) {
            [[unroll]] for (uint b = 0u; b < LANES; b += BLOCK) {
                vec4 v[BLOCK * UNITS];
                [[unroll]] for (uint r = 0u; r < BLOCK; r++) {
                    uint key = min(first + b + r, end_key - 1u);  // past the end: weight zero, of a row that is there
                    uint at = (base + key) * (HEAD_DIM / 4u) + lane;
                    [[unroll]] for (uint u = 0u; u < UNITS; u++) v[r * UNITS + u] = load_value(at + u * LANES);
                }
                [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                    [[unroll]] for (uint r = 0u; r < BLOCK; r++) {
                        vec4 w = vec4(subgroupShuffle(e[g * KEYS], b + r));
                        [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                            sum[g * UNITS + u] = fma(w, v[r * UNITS + u], sum[g * UNITS + u]);
                        }
                    }
                }
            }
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {       // the next eight keys' weights to the front
                [[unroll]] for (uint j = 0u; j + 1u < KEYS; j++) e[g * KEYS + j] = e[g * KEYS + j + 1u];
            }
        }
    }

    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        float all = total[g];
        all += subgroupShuffleXor(all, 1u);
        all += subgroupShuffleXor(all, 2u);
        all += subgroupShuffleXor(all, 4u);
        float inverse = all > 0.0 ? 1.0 / all : 0.0;
        uint to = (row * heads + first_head + g) * (HEAD_DIM / 4u) + lane;
        if (g < heads_here) {
            [[unroll]] for (uint u = 0u; u < UNITS; u++) y4[to + u * LANES] = sum[g * UNITS + u] * inverse;
        }
    }
}
