#version 450
#include "flux_ranked.contract.glsl"
#include "include/sample_math.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_row.glsl"

// Candidates of a row whose keys were sorted, 1024 a workgroup: logit, and how often and when they last stood in the
// slot's history.

const uint SPAN = 1024u;
shared uint r_count[SPAN];
shared uint r_last[SPAN];
uint list_at;   // where the row begins

uint list_key(uint i) { return keys[list_at + i]; }
uint list_id(uint i) { return ids[list_at + i]; }
#include "include/flux_find.glsl"

void main() {
    uint row = gl_WorkGroupID.y, t = gl_LocalInvocationID.x, slot = row_slot[row];
    list_at = row * p.VP;
    uint want = slot < p.S ? wanted(slot) : 0u;
    uint n = want == 0u ? 0u : place_of(KEY_NEG_INF, 0u, 0u, want);    // what is not finite comes last
    if (gl_WorkGroupID.x == 0u && t == 0u) write_info(row, slot, n);
    uint first = gl_WorkGroupID.x * SPAN, end = min(first + SPAN, n);
    if (first >= n) return;
    for (uint i = t; i < SPAN; i += WG) {
        r_count[i] = 0u;
        r_last[i] = 0xFFFFFFFFu;
    }
    barrier();
    uint seen = hist_count[slot], highest = list_key(first), least = list_key(end - 1u);
    for (uint i = t; i < min(seen, p.H); i += WG) {
        uint token = history[slot * p.H + (seen - 1u - i) % p.H];
        if (token >= p.V) continue;
        uint key = key_of(logits[row * p.V + token]);
        if (key < least || key > highest) continue;
        uint at = place_of(key, token, first, end);
        if (at < end && list_id(at) == token) {
            atomicAdd(r_count[at - first], 1u);
            atomicMin(r_last[at - first], i + 1u);
        }
    }
    barrier();
    for (uint i = first + t; i < end; i += WG) {
        uint bits = floatBitsToUint(value_of(list_key(i)));
        cand[row * p.C + i] = uvec4(list_id(i), bits, r_count[i - first], r_last[i - first]);
    }
}
