// Attention of one row for one block of query heads, by a workgroup of WG invocations (a power of two from 8 on): see
// attention.comp. The caller copies its push constants into the globals here and in step_push.glsl and calls attend() from
// uniform control flow, as often as it likes; what other invocations wrote (q, pages) must be visible to all before.
//
// Wants the arrays q4, pos, slot, pages, slot_info4, y4 and k_8xf16, k_4xf16 / k_4xf32 (and so for v), the constants WG, PS,
// HEAD_DIM, GROUP, CHUNK, and the defines KV_F16, SUBGROUP_MAX (or not). With ATTENTION_SPLIT also the constant SPLIT and
// the coherent arrays partial4, counters.
//
// Where SPLIT is not 0 (or not defined at all) the bits are the same: the chunks' results are folded in the same order by
// the same operations, whether the result so far lies in registers or, unnormalised, in y.
#include "step_push.glsl"
#include "attention_span.glsl"
#include "attention_fold.glsl"
#include "softcap.glsl"

uint attn_window;
float attn_scale, attn_cap;

const float LOWEST = -3.0e38;

#ifdef KV_F16
const uint VEC = HEAD_DIM % 8u == 0u ? 2u : 1u;  // a load of 16 bytes holds this many vec4, where rows are aligned to it
#else
const uint VEC = 1u;
#endif
const uint LOADS = HEAD_DIM / (4u * VEC);        // loads in a row of the cache
const uint PASSES = (LOADS + WG - 1u) / WG;      // loads of a row by one invocation, in the value part
const uint LANES = LOADS < WG ? LOADS : WG;      // invocations that share a row of values;
const uint TEAMS = WG / LANES;                   // this many rows are read at a time
const uint KEYS = WG < PS ? PS / WG : 1u;        // keys of a page scored by one invocation
const uint WEIGHTS = WG < PS ? PS : WG;
const uint TEAM_SUMS = TEAMS > 1u ? GROUP * WG * VEC : 1u;

shared float weight[GROUP * WEIGHTS];            // exp(score - maximum) of the page; at the end, sums by invocation
shared float peak[GROUP * WG];                   // maxima by subgroup (or by invocation)
shared vec4 team_sum[TEAM_SUMS];
#ifdef ATTENTION_SPLIT
shared uint chunks_done;
#endif

vec4 widen(uvec2 b) { return vec4(unpackHalf2x16(b.x), unpackHalf2x16(b.y)); }

// VEC vec4 of a cache row; `at` counts vec4.
#ifdef KV_F16
#define LOAD(CACHE8, CACHE4, CACHE32, AT, OUT)                                                     \
    if (VEC == 2u) {                                                                               \
        uvec4 bits = CACHE8[(AT) / 2u];                                                            \
        OUT[0] = widen(bits.xy);                                                                   \
        OUT[VEC - 1u] = widen(bits.zw);                                                            \
    } else {                                                                                       \
        OUT[0] = widen(CACHE4[AT]);                                                                \
    }
#else
#define LOAD(CACHE8, CACHE4, CACHE32, AT, OUT) OUT[0] = CACHE32[AT];
#endif

float multiply_add(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Largest of v over the workgroup, for each head.
void group_max(inout float v[GROUP]) {
#ifdef SUBGROUP_MAX
    [[unroll]] for (uint g = 0u; g < GROUP; g++) v[g] = subgroupMax(v[g]);
    uint parts = gl_NumSubgroups;
    if (subgroupElect()) {
        [[unroll]] for (uint g = 0u; g < GROUP; g++) peak[g * WG + gl_SubgroupID] = v[g];
    }
    barrier();
#else
    uint parts = WG;
    [[unroll]] for (uint g = 0u; g < GROUP; g++) peak[g * WG + gl_LocalInvocationID.x] = v[g];
    barrier();
#endif
    if (parts > 1u) {
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            for (uint i = 0u; i < parts; i++) v[g] = max(v[g], peak[g * WG + i]);
        }
    }
}

#ifdef ATTENTION_SPLIT
// True in the workgroup that brings the chunks done of this row and block up to all: what the others wrote to partial4 is
// then visible, and the counter is 0 again, ready for the next run.
bool arrived_last(uint row, uint kv_head, uint block, uint done, uint chunks) {
    uint blocks = (heads / kv_heads + GROUP - 1u) / GROUP, at = (row * kv_heads + kv_head) * blocks + block;
    memoryBarrierBuffer();  // every invocation's values are written ...
    barrier();              // ... before the workgroup's chunks count as done
    if (gl_LocalInvocationID.x == 0u) {
        memoryBarrierBuffer();
        uint sum = atomicAdd(counters[at], done) + done;
        if (sum == chunks) atomicExchange(counters[at], 0u);
        memoryBarrierBuffer();
        chunks_done = sum;
    }
    barrier();
    memoryBarrierBuffer();
    return chunks_done == chunks;
}

// The fold of all chunks from memory, in the order in which one workgroup would have met them.
void merge(uint row, uint first_head, uint heads_here, uint chunks, uint partial_at, uint partial_rows) {
    const uint units = HEAD_DIM / 4u;
    for (uint item = gl_LocalInvocationID.x; item < heads_here * units; item += WG) {
        uint g = item / units, unit = item % units;
        uint from = (partial_at + g * partial_rows) * (units + 1u);
        Fold all = Fold(LOWEST, 0.0);
        vec4 sum = vec4(0.0);
        for (uint chunk = 0u; chunk < chunks; chunk++) {
            vec2 two = partial4[from + units].xy;
            vec2 by = fold(all, two.x, two.y);
            sum = fold_values(sum, partial4[from + unit], by);
            from += units + 1u;
        }
        y4[(row * heads + first_head) * units + item] = normalised(sum, all.total);
    }
}
#endif

// The chunks first_chunk ... end_chunk - 1 of the row, as far as there are so many. Those that are not all of the row's
// chunks need SPLIT; the workgroup that is the last to finish writes y.
void attend(uint row, uint kv_head, uint block, uint first_chunk, uint end_chunk) {
    uint t = gl_LocalInvocationID.x, lane = t % LANES, team = t / LANES;
    uint group = heads / kv_heads;
    uint first_head = kv_head * group + block * GROUP;
    uint heads_here = min(GROUP, (kv_head + 1u) * group - first_head);

    uint q_at[GROUP];  // a block that is not full does its last head again and drops it
    Fold known[GROUP];
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        q_at[g] = (row * row_stride + (first_head + min(g, heads_here - 1u)) * HEAD_DIM) / 4u;
        known[g] = Fold(LOWEST, 0.0);
    }

    uint slot_id = slot[row], position = pos[row];
    bool padding = slot_id >= slots;
    uvec2 info = slot_info4[padding ? 0u : slot_id].xy;
    uint sinks = info.x, dropped = info.y;
    Span span = visible_span(position, info, attn_window, max_pages);
    if (padding) span.end = 0u;
    uint chunks = span_chunks(span), stop = min(end_chunk, chunks);
    if (first_chunk >= stop) return;
#ifdef ATTENTION_SPLIT
    bool whole = SPLIT == 0u || (first_chunk == 0u && stop == chunks);
    uint partial_rows = (max_pages + CHUNK - 1u) / CHUNK;  // of one head; a row: HEAD_DIM values, maximum, sum, 0, 0
    uint partial_at = (row * heads + first_head) * partial_rows;
#endif

    for (uint chunk = first_chunk; chunk < stop; chunk++) {
        float top[GROUP], total[GROUP];
        vec4 sum[GROUP * PASSES * VEC];
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            top[g] = LOWEST;
            total[g] = 0.0;
        }
        [[unroll]] for (uint i = 0u; i < GROUP * PASSES * VEC; i++) sum[i] = vec4(0.0);

        uint entry = span.first + chunk * CHUNK, end = min(entry + CHUNK, span.end);
        for (; entry < end; entry++) {
            uint page_start = (entry < sinks ? entry : entry + dropped) * PS;
            uint begin_key = max(span.oldest, page_start) - page_start;
            uint end_key = min(PS, position + 1u - page_start);
            uint base = (pages[slot_id * max_pages + entry] * kv_heads + kv_head) * PS * (HEAD_DIM / 4u);

            float score[GROUP * KEYS];
            [[unroll]] for (uint i = 0u; i < GROUP * KEYS; i++) score[i] = 0.0;
            for (uint c = 0u; c < LOADS; c++) {
                vec4 k[KEYS * VEC];
                [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                    vec4 loaded[VEC];
                    uint key = min(j * WG + t, PS - 1u);
                    LOAD(k_8xf16, k_4xf16, k_4xf32, base + key * (HEAD_DIM / 4u) + c * VEC, loaded)
                    [[unroll]] for (uint i = 0u; i < VEC; i++) k[j * VEC + i] = loaded[i];
                }
                [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                    [[unroll]] for (uint i = 0u; i < VEC; i++) {
                        vec4 query = q4[q_at[g] + c * VEC + i];
                        [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                            score[g * KEYS + j] = multiply_add(query, k[j * VEC + i], score[g * KEYS + j]);
                        }
                    }
                }
            }

            float high[GROUP];
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                high[g] = top[g];
                [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                    uint key = j * WG + t;
                    precise float s = score[g * KEYS + j] * attn_scale;
                    if (attn_cap > 0.0) s = soft_cap(s, attn_cap);
                    s = key >= begin_key && key < end_key ? clamp(s, LOWEST, -LOWEST) : LOWEST;
                    score[g * KEYS + j] = s;
                    high[g] = max(high[g], s);
                }
            }
            group_max(high);

            float fade[GROUP];
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                precise float by = exp(top[g] - high[g]), all = total[g] * by;
                fade[g] = by;
                top[g] = high[g];
                [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                    uint key = j * WG + t;
                    precise float e = key >= begin_key && key < end_key ? exp(score[g * KEYS + j] - high[g]) : 0.0;
                    all += e;
                    weight[g * WEIGHTS + key] = e;
                }
                total[g] = all;
            }
            barrier();

            [[unroll]] for (uint n = 0u; n < PASSES; n++) {
                uint at = n * WG + lane;
                [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                    [[unroll]] for (uint i = 0u; i < VEC; i++) sum[(g * PASSES + n) * VEC + i] *= fade[g];
                }
                if (at < LOADS && team < TEAMS) {
                    for (uint key = team; key < end_key; key += TEAMS) {
                        vec4 v[VEC];
                        LOAD(v_8xf16, v_4xf16, v_4xf32, base + key * (HEAD_DIM / 4u) + at * VEC, v)
                        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                            vec4 w = vec4(weight[g * WEIGHTS + key]);
                            [[unroll]] for (uint i = 0u; i < VEC; i++) {
                                sum[(g * PASSES + n) * VEC + i] = fma(w, v[i], sum[(g * PASSES + n) * VEC + i]);
                            }
                        }
                    }
                }
            }
        }

        barrier();
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            weight[g * WEIGHTS + t] = total[g];
            if (TEAMS > 1u) {
                [[unroll]] for (uint i = 0u; i < VEC; i++) team_sum[(g * WG + t) * VEC + i] = sum[g * VEC + i];
            }
        }
        barrier();
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            if (team > 0u || g >= heads_here) continue;
            float all = 0.0;
            for (uint i = 0u; i < WG; i++) all += weight[g * WEIGHTS + i];
            uint y_at = (row * heads + first_head + g) * (HEAD_DIM / 4u);
#ifdef ATTENTION_SPLIT
            uint partial_to = (partial_at + g * partial_rows + chunk) * (HEAD_DIM / 4u + 1u);
            if (!whole && lane == 0u) partial4[partial_to + HEAD_DIM / 4u] = vec4(top[g], all, 0.0, 0.0);
#endif
            vec2 by = fold(known[g], top[g], all);
            [[unroll]] for (uint n = 0u; n < PASSES; n++) {
                uint at = n * WG + lane;
                if (at >= LOADS) continue;
                [[unroll]] for (uint i = 0u; i < VEC; i++) {
                    vec4 s = sum[(g * PASSES + n) * VEC + i];
                    for (uint m = 1u; m < TEAMS; m++) s += team_sum[(g * WG + m * LANES + lane) * VEC + i];
#ifdef ATTENTION_SPLIT
                    if (!whole) {
                        partial4[partial_to + at * VEC + i] = s;
                        continue;
                    }
#endif
                    s = fold_values(chunk == 0u ? vec4(0.0) : y4[y_at + at * VEC + i], s, by);
                    y4[y_at + at * VEC + i] = chunk + 1u < chunks ? s : normalised(s, known[g].total);
                }
            }
        }
        barrier();  // weight and team_sum have been read; the next chunk, or the next call, may write them
    }
#ifdef ATTENTION_SPLIT
    if (!whole && arrived_last(row, kv_head, block, stop - first_chunk, chunks)) {
        merge(row, first_head, heads_here, chunks, partial_at, partial_rows);
    }
#endif
}
