// Attention of one row for one block of query heads, by a workgroup of eight invocations: see attention_lane.comp. The
// caller copies its push constants into the globals here and in step_push.glsl and calls attend() from uniform control
// flow, as often as it likes; what other invocations wrote (q, pages) must be visible to this one before.
//
// Wants the arrays pos, slot, pages, slot_info4, y_4, q_4, k_8 and v_4 (with KV_TEXELS the texel buffers q_texels, k_texels,
// v_texels instead, where all of it was written by earlier dispatches), the constants PS, HEAD_DIM, GROUP, CHUNK, and the
// define KV_F16 (or not). With ATTENTION_SPLIT also the constant SPLIT and the coherent arrays partial_4, counters.
//
// Where SPLIT is not 0 (or not defined at all) the bits are the same: the chunks' results are folded in the same order by
// the same instructions, whether they come from registers or from memory.
// llvmpipe runs what an `if` skips, with no lane taking part, and a loop's body once more than needed where the test stands
// in front of it: hence the loops that test at their end. Barriers cost it 7 % of the page loop, wherever they stand.
#include "step_push.glsl"
#include "attention_span.glsl"
#include "attention_fold.glsl"
#include "softcap.glsl"

uint attn_window;
float attn_scale, attn_cap;

const float LOWEST = -3.0e38;
const uint LANES = 8u;
const uint KEYS = PS / LANES;               // keys of a page scored by one lane
const uint UNITS = HEAD_DIM / (4u * LANES); // vec4 of the result that a lane owns: elements (unit * LANES + lane) * 4 ...
const uint BLOCK = 4u;                      // rows of values taken at a time

const uint PARTIAL = HEAD_DIM / 4u + 1u;    // vec4 of a chunk's result: values; maximum, sum, 0, 0

// A vec4 in two words of 64 bits: half as many stores.
u64vec2 packed(vec4 v) {
    uvec4 w = floatBitsToUint(v);
    return u64vec2(packUint2x32(w.xy), packUint2x32(w.zw));
}

vec4 unpacked(u64vec2 v) { return uintBitsToFloat(uvec4(unpackUint2x32(v.x), unpackUint2x32(v.y))); }

uvec2 words(uint64_t v) { return uvec2(uint(v), uint(v >> 32)); }

// Eight elements of a key.
void load_key(uint at, out float k[8]) {
#ifdef KV_F16
#ifdef KV_TEXELS
    uvec4 w = texelFetch(k_texels, int(at));
#else
    u64vec2 bits = k_8[at];
    uvec4 w = uvec4(words(bits.x), words(bits.y));
#endif
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        vec2 two = unpackHalf2x16(w[i]);
        k[2u * i] = two.x;
        k[2u * i + 1u] = two.y;
    }
#else
#ifdef KV_TEXELS
    vec4 low = uintBitsToFloat(texelFetch(k_texels, int(2u * at)));
    vec4 high = uintBitsToFloat(texelFetch(k_texels, int(2u * at + 1u)));
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        k[i] = low[i];
        k[4u + i] = high[i];
    }
#else
    u64vec4 bits = k_8[at];
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        vec2 two = uintBitsToFloat(words(bits[i]));
        k[2u * i] = two.x;
        k[2u * i + 1u] = two.y;
    }
#endif
#endif
}

// Four elements of a query.
vec4 load_query(uint at) {
#ifdef KV_TEXELS
    return uintBitsToFloat(texelFetch(q_texels, int(at)));
#else
    return unpacked(q_4[at]);
#endif
}

// Four elements of a value.
vec4 load_value(uint at) {
#ifdef KV_F16
#ifdef KV_TEXELS
    uvec4 t = texelFetch(v_texels, int(at >> 1));
    uvec2 w = (at & 1u) == 0u ? t.xy : t.zw;
#else
    uvec2 w = words(v_4[at]);
#endif
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
#else
#ifdef KV_TEXELS
    return uintBitsToFloat(texelFetch(v_texels, int(at)));
#else
    u64vec2 bits = v_4[at];
    return uintBitsToFloat(uvec4(words(bits.x), words(bits.y)));
#endif
#endif
}

#ifdef ATTENTION_SPLIT
// True in the workgroup that brings the chunks done of this row and block up to all: what the others wrote to partial_4 is
// then visible, and the counter is 0 again, ready for the next run.
bool arrived_last(uint row, uint kv_head, uint block, uint done, uint chunks) {
    uint blocks = (heads / kv_heads + GROUP - 1u) / GROUP, at = (row * kv_heads + kv_head) * blocks + block;
    memoryBarrierBuffer();  // every lane's values are written ...
    subgroupBarrier();      // ... before any of them counts as done
    uint before = 0u;
    if (gl_SubgroupInvocationID == 0u) {
        before = atomicAdd(counters[at], done);
        if (before + done == chunks) atomicExchange(counters[at], 0u);
    }
    before = subgroupShuffle(before, 0u);
    subgroupBarrier();
    memoryBarrierBuffer();
    return before + done == chunks;
}
#endif

// The chunks first_chunk ... end_chunk - 1 of the row, as far as there are so many. Those that are not all of the row's
// chunks need SPLIT; the workgroup that is the last to finish writes y.
void attend(uint row, uint kv_head, uint block, uint first_chunk, uint end_chunk) {
    uint lane = gl_SubgroupInvocationID;
    uint group = heads / kv_heads;
    uint first_head = kv_head * group + block * GROUP;
    uint heads_here = min(GROUP, (kv_head + 1u) * group - first_head);

    uint slot_id = slot[row], position = pos[row];
    bool padding = slot_id >= slots;
    if (padding) slot_id = 0u;
    uvec2 info = slot_info4[slot_id].xy;
    uint sinks = info.x, dropped = info.y;
    Span span = visible_span(position, info, attn_window, max_pages);
    bool nothing = padding || span.end <= span.first;  // one page is read all the same, with weights of zero
    uint span_end = nothing ? span.first + 1u : span.end;
    uint chunks = (span_end - span.first + CHUNK - 1u) / CHUNK;
    uint stop = min(end_chunk, chunks);

    uint q_at[GROUP];                       // a block that is not full does its last head again and drops it
    Fold known[GROUP];
    vec4 result[GROUP * UNITS];
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        q_at[g] = (row * row_stride + (first_head + min(g, heads_here - 1u)) * HEAD_DIM) / 4u + lane;
        known[g] = Fold(LOWEST, 0.0);
    }
    [[unroll]] for (uint i = 0u; i < GROUP * UNITS; i++) result[i] = vec4(0.0);
#ifdef ATTENTION_SPLIT
    bool whole = SPLIT == 0u || (first_chunk == 0u && stop == chunks);
    uint partial_rows = (max_pages + CHUNK - 1u) / CHUNK;  // of one head
    uint partial_at = (row * heads + first_head) * partial_rows * PARTIAL;
#endif

    uint chunk = first_chunk;
#ifdef ATTENTION_SPLIT
    if (SPLIT == 0u || first_chunk < stop)
#endif
    {
        do {
            uint entry = span.first + chunk * CHUNK, end = min(entry + CHUNK, span_end);
            float top[GROUP], total[GROUP];
            vec4 sum[GROUP * UNITS];
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                top[g] = LOWEST;
                total[g] = 0.0;
            }
            [[unroll]] for (uint i = 0u; i < GROUP * UNITS; i++) sum[i] = vec4(0.0);

            do {
                uint page_start = (entry < sinks ? entry : entry + dropped) * PS;
                uint begin_key = max(span.oldest, page_start) - page_start;
                uint end_key = nothing ? 0u : min(PS, position + 1u - page_start);
                uint page = nothing ? 0u : pages[slot_id * max_pages + entry];
                uint base = (page * kv_heads + kv_head) * PS;

                float e[GROUP * KEYS];              // scores, then weights
                [[unroll]] for (uint i = 0u; i < GROUP * KEYS; i++) e[i] = 0.0;
                uint c = 0u;                        // 32 elements of the head at a time, four of the queries' a lane
                do {
                    float k[KEYS * 32];
                    [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                        [[unroll]] for (uint part = 0u; part < 4u; part++) {
                            float eight[8];
                            load_key((base + j * LANES + lane) * (HEAD_DIM / 8u) + c * 4u + part, eight);
                            [[unroll]] for (uint i = 0u; i < 8u; i++) k[j * 32u + part * 8u + i] = eight[i];
                        }
                    }
                    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                        vec4 mine = load_query(q_at[g] + c * LANES);
                        [[unroll]] for (uint i = 0u; i < 32u; i++) {
                            float query = subgroupShuffle(mine[i & 3u], i >> 2);
                            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                                e[g * KEYS + j] = fma(query, k[j * 32u + i], e[g * KEYS + j]);
                            }
                        }
                    }
                } while (++c < HEAD_DIM / 32u);

                [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                    precise float high = top[g];
                    [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                        uint key = j * LANES + lane;
                        precise float s = e[g * KEYS + j] * attn_scale;
                        if (attn_cap > 0.0) s = soft_cap(s, attn_cap);
                        s = key >= begin_key && key < end_key ? clamp(s, LOWEST, -LOWEST) : LOWEST;
                        e[g * KEYS + j] = s;
                        high = max(high, s);
                    }
                    high = max(high, subgroupShuffleXor(high, 1u));
                    high = max(high, subgroupShuffleXor(high, 2u));
                    high = max(high, subgroupShuffleXor(high, 4u));
                    precise float fade = exp(top[g] - high);
                    top[g] = high;
                    precise float all = total[g] * fade;
                    [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                        uint key = j * LANES + lane;
                        precise float w = key >= begin_key && key < end_key ? exp(e[g * KEYS + j] - high) : 0.0;
                        all += w;
                        e[g * KEYS + j] = w;
                    }
                    total[g] = all;
                    [[unroll]] for (uint u = 0u; u < UNITS; u++) sum[g * UNITS + u] *= fade;
                }

                uint first = 0u, last_key = max(end_key, 1u) - 1u;
                do {
                    [[unroll]] for (uint b = 0u; b < LANES; b += BLOCK) {
                        vec4 v[BLOCK * UNITS];
                        [[unroll]] for (uint r = 0u; r < BLOCK; r++) {
                            uint key = min(first + b + r, last_key);  // past the end: weight zero, of a row that is there
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
                    first += LANES;
                } while (first < end_key);
            } while (++entry < end);

            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                precise float all = total[g];
                all += subgroupShuffleXor(all, 1u);
                all += subgroupShuffleXor(all, 2u);
                all += subgroupShuffleXor(all, 4u);
                total[g] = all;
                vec2 by = fold(known[g], top[g], all);
                [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                    result[g * UNITS + u] = fold_values(result[g * UNITS + u], sum[g * UNITS + u], by);
                }
            }
#ifdef ATTENTION_SPLIT
            if (!whole) {
                uint to = partial_at + chunk * PARTIAL;
                [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                    uint head_to = to + min(g, heads_here - 1u) * partial_rows * PARTIAL + lane;
                    [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                        partial_4[head_to + u * LANES] = packed(sum[g * UNITS + u]);
                    }
                }
                [[unroll]] for (uint g = 0u; g < GROUP; g += LANES) {  // maxima and sums: one head a lane
                    vec4 mine = vec4(top[g], total[g], 0.0, 0.0);
                    [[unroll]] for (uint i = 1u; i < min(LANES, GROUP - g); i++) {
                        mine.xy = lane == i ? vec2(top[g + i], total[g + i]) : mine.xy;
                    }
                    uint head_to = to + (g + lane) * partial_rows * PARTIAL + HEAD_DIM / 4u;
                    if (g + lane < heads_here) partial_4[head_to] = packed(mine);
                }
            }
#endif
        } while (++chunk < stop);

        uint y_at = (row * heads + first_head) * (HEAD_DIM / 4u) + lane;
#ifdef ATTENTION_SPLIT
        if (!whole && arrived_last(row, kv_head, block, stop - first_chunk, chunks)) {
            uint g = 0u;
            do {
                Fold all = Fold(LOWEST, 0.0);
                vec4 sum[UNITS];
                [[unroll]] for (uint u = 0u; u < UNITS; u++) sum[u] = vec4(0.0);
                uint from = partial_at + g * partial_rows * PARTIAL, left = chunks;
                do {
                    vec2 two = unpacked(partial_4[from + HEAD_DIM / 4u]).xy;
                    vec2 by = fold(all, two.x, two.y);
                    [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                        sum[u] = fold_values(sum[u], unpacked(partial_4[from + u * LANES + lane]), by);
                    }
                    from += PARTIAL;
                } while (--left > 0u);
                [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                    y_4[y_at + g * (HEAD_DIM / 4u) + u * LANES] = packed(normalised(sum[u], all.total));
                }
            } while (++g < heads_here);
        }
#else
        const bool whole = true;
#endif
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            if (whole && g < heads_here) {
                [[unroll]] for (uint u = 0u; u < UNITS; u++) {
                    vec4 y = normalised(result[g * UNITS + u], known[g].total);
                    y_4[y_at + g * (HEAD_DIM / 4u) + u * LANES] = packed(y);
                }
            }
        }
    }
}
