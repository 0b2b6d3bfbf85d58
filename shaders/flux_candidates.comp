#version 450
#include "flux_candidates.contract.glsl"
#include "include/sample_collect.glsl"
#include "include/sample_select.glsl"
#include "include/sample_exact.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_row.glsl"

// One workgroup per row: the best N <= 256 logits in the order (logit descending, id ascending), how often each stands
// in the slot's history and how far back it last did, and the words about the row.

const uint LIST = 256u;
shared uint r_key[LIST];
shared uint r_id[LIST];
shared uint r_count[LIST];
shared uint r_last[LIST];

uint list_key(uint i) { return r_key[i]; }
uint list_id(uint i) { return r_id[i]; }
#include "include/flux_find.glsl"

// The `want` best finite logits into r_key and r_id; returns how many there are.
uint gather_best(uint row, uint want, uint highest) {
    uint n = collect(row, max(kth_bound(row, want, highest), KEY_NEG_INF + 1u));
    if (n > CAP) {
        collect_exact(row, want);
        n = s_n;
    }
    for (uint i = gl_LocalInvocationIndex; i < n; i += WG) {
        uint key = s_key[i], id = s_id[i], rank = 0u;
        for (uint j = 0u; j < n; j++) rank += s_key[j] > key || (s_key[j] == key && s_id[j] < id) ? 1u : 0u;
        if (rank < want) {
            r_key[rank] = key;
            r_id[rank] = id;
            r_count[rank] = 0u;
            r_last[rank] = 0xFFFFFFFFu;
        }
    }
    barrier();
    return min(n, want);
}

void count_history(uint row, uint slot, uint n) {
    uint seen = hist_count[slot];
    for (uint i = gl_LocalInvocationIndex; i < min(seen, p.H); i += WG) {
        uint token = history[slot * p.H + (seen - 1u - i) % p.H];
        if (token >= p.V) continue;
        uint key = key_of(logits[row * p.V + token]);
        if (key < r_key[n - 1u]) continue;
        uint at = place_of(key, token, 0u, n);
        if (at < n && r_id[at] == token) {
            atomicAdd(r_count[at], 1u);
            atomicMin(r_last[at], i + 1u);
        }
    }
    barrier();
}

void main() {
    uint row = gl_WorkGroupID.x, slot = row_slot[row];
    uint want = slot < p.S ? min(wanted(slot), LIST) : 0u;
    uint n = 0u;
    if (want > 0u) {
        uint highest = row_max(row);
        if (highest > KEY_NEG_INF) n = gather_best(row, want, highest);
    }
    if (n > 0u) {
        count_history(row, slot, n);
        for (uint i = gl_LocalInvocationIndex; i < n; i += WG) {
            cand[row * p.C + i] = uvec4(r_id[i], floatBitsToUint(value_of(r_key[i])), r_count[i], r_last[i]);
        }
    }
    if (gl_LocalInvocationIndex == 0u) write_info(row, slot, n);
}
