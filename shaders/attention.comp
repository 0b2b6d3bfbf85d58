// One workgroup: GROUP query heads that share a KV head, for one row. Page by page: every invocation scores PS / WG keys,
// then the workgroup adds up the values with the head's elements spread over the invocations. Nothing depends on other
// rows, and pages come in the order of their positions: a row has the same bits alone and in any batch.
// A row whose slot is not in the table is padding and gives zeros.
#version 450
#include "attention.contract.glsl"
#include "include/softcap.glsl"

const float LOWEST = -3.0e38;

#ifdef KV_F16
const uint VEC = HEAD_DIM % 8u == 0u ? 2u : 1u;  // a load of 16 bytes holds this many vec4, where rows are aligned to it
#else
const uint VEC = 1u;
#endif
const uint CHUNKS = HEAD_DIM / (4u * VEC);       // loads in a row of the cache
const uint PASSES = (CHUNKS + WG - 1u) / WG;     // loads of a row by one invocation, in the value part
const uint LANES = CHUNKS < WG ? CHUNKS : WG;    // invocations that share a row of values;
const uint TEAMS = WG / LANES;                   // this many rows are read at a time
const uint KEYS = PS / WG;                       // keys of a page scored by one invocation
const uint TEAM_SUMS = TEAMS > 1u ? GROUP * WG * VEC : 1u;

shared float weight[GROUP * PS];                 // exp(score - maximum) of the page; at the end, sums by invocation
shared float peak[GROUP * WG];                   // maxima by subgroup (or by invocation)
shared vec4 team_sum[TEAM_SUMS];

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

void main() {
    uint row = gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    uint group = p.heads / p.kv_heads, blocks = (group + GROUP - 1u) / GROUP;
    uint kv_head = gl_WorkGroupID.y / blocks;
    uint first_head = kv_head * group + gl_WorkGroupID.y % blocks * GROUP;
    uint heads_here = min(GROUP, (kv_head + 1u) * group - first_head);

    uint q_at[GROUP];  // a block that is not full does its last head again and drops it
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        q_at[g] = (row * p.q_stride + (first_head + min(g, heads_here - 1u)) * HEAD_DIM) / 4u;
    }

    float top[GROUP], total[GROUP];
    vec4 sum[GROUP * PASSES * VEC];
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        top[g] = LOWEST;
        total[g] = 0.0;
    }
    [[unroll]] for (uint i = 0u; i < GROUP * PASSES * VEC; i++) sum[i] = vec4(0.0);

    uint slot_id = slot[row], position = pos[row];
    bool padding = slot_id >= p.slots;
    uvec4 info = slot_info4[padding ? 0u : slot_id];
    uint sinks = info.x, dropped = info.y;
    uint oldest = p.window == 0u || position < p.window ? 0u : position - p.window + 1u;
    uint newest_page = position / PS, oldest_page = oldest / PS;
    uint last = newest_page - (newest_page >= sinks ? dropped : 0u);
    uint entry = oldest_page;
    if (oldest_page >= sinks) entry = oldest_page >= sinks + dropped ? oldest_page - dropped : sinks;
    uint end = padding ? 0u : min(last + 1u, p.max_pages);

    uint lane = t % LANES, team = t / LANES;
    for (; entry < end; entry++) {
        uint page_start = (entry < sinks ? entry : entry + dropped) * PS;
        uint begin_key = max(oldest, page_start) - page_start;
        uint end_key = min(PS, position + 1u - page_start);
        uint base = (pages[slot_id * p.max_pages + entry] * p.kv_heads + kv_head) * PS * (HEAD_DIM / 4u);

        float score[GROUP * KEYS];
        [[unroll]] for (uint i = 0u; i < GROUP * KEYS; i++) score[i] = 0.0;
        for (uint c = 0u; c < CHUNKS; c++) {
            vec4 k[KEYS * VEC];
            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                vec4 loaded[VEC];
                LOAD(k_8xf16, k_4xf16, k_4xf32, base + (j * WG + t) * (HEAD_DIM / 4u) + c * VEC, loaded)
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
                float s = score[g * KEYS + j] * p.scale;
                if (p.softcap > 0.0) s = soft_cap(s, p.softcap);
                s = key >= begin_key && key < end_key ? clamp(s, LOWEST, -LOWEST) : LOWEST;
                score[g * KEYS + j] = s;
                high[g] = max(high[g], s);
            }
        }
        group_max(high);

        float fade[GROUP];
        [[unroll]] for (uint g = 0u; g < GROUP; g++) {
            fade[g] = exp(top[g] - high[g]);
            top[g] = high[g];
            total[g] *= fade[g];
            [[unroll]] for (uint j = 0u; j < KEYS; j++) {
                uint key = j * WG + t;
                float e = key >= begin_key && key < end_key ? exp(score[g * KEYS + j] - high[g]) : 0.0;
                total[g] += e;
                weight[g * PS + key] = e;
            }
        }
        barrier();

        [[unroll]] for (uint n = 0u; n < PASSES; n++) {
            uint chunk = n * WG + lane;
            [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                [[unroll]] for (uint i = 0u; i < VEC; i++) sum[(g * PASSES + n) * VEC + i] *= fade[g];
            }
            if (chunk < CHUNKS && team < TEAMS) {
                for (uint key = team; key < end_key; key += TEAMS) {
                    vec4 v[VEC];
                    LOAD(v_8xf16, v_4xf16, v_4xf32, base + key * (HEAD_DIM / 4u) + chunk * VEC, v)
                    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
                        vec4 w = vec4(weight[g * PS + key]);
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
        weight[g * PS + t] = total[g];
        if (TEAMS > 1u) {
            [[unroll]] for (uint i = 0u; i < VEC; i++) team_sum[(g * WG + t) * VEC + i] = sum[g * VEC + i];
        }
    }
    barrier();
    if (team > 0u) return;
    [[unroll]] for (uint g = 0u; g < GROUP; g++) {
        if (g >= heads_here) break;
        float all = 0.0;
        for (uint i = 0u; i < WG; i++) all += weight[g * PS + i];
        float inverse = all > 0.0 ? 1.0 / all : 0.0;
        uint to = (row * p.heads + first_head + g) * (HEAD_DIM / 4u);
        [[unroll]] for (uint n = 0u; n < PASSES; n++) {
            uint chunk = n * WG + lane;
            [[unroll]] for (uint i = 0u; i < VEC; i++) {
                vec4 s = sum[(g * PASSES + n) * VEC + i];
                for (uint m = 1u; m < TEAMS; m++) s += team_sum[(g * WG + m * LANES + lane) * VEC + i];
                if (chunk < CHUNKS) y4[to + chunk * VEC + i] = s * inverse;
            }
        }
    }
}
