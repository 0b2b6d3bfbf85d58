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
const uint ROUNDS = 24u;
shared uint r_key[LIST];
shared uint r_id[LIST];
shared uint r_count[LIST];
shared uint r_last[LIST];

uint list_key(uint i) { return r_key[i]; }
uint list_id(uint i) { return r_id[i]; }
#include "include/flux_find.glsl"

// Logits, or with by_blocks blocks of 64, that reach a key.
uint reach(uint row, uint key, bool by_blocks) {
    uint n = 0u, end = by_blocks ? p.NB / 4u : (p.V + 3u) / 4u;
    for (uint i = gl_LocalInvocationIndex; i < (by_blocks ? end : 0u); i += WG) {
        uvec4 hit = uvec4(greaterThanEqual(maxima4[row * end + i], uvec4(key)));
        n += hit.x + hit.y + hit.z + hit.w;
    }
    for (uint i = gl_LocalInvocationIndex; i < (by_blocks ? 0u : end); i += WG) {
        uvec4 hit = uvec4(greaterThanEqual(load_keys(row, i), uvec4(key)));
        n += hit.x + hit.y + hit.z + hit.w;
    }
    return wg_add(n);
}

// A key that at least `want` logits reach, and not many more: the distance to the largest logit is bisected, which takes
// fewer rounds than bisecting keys. Where fewer are finite, the lowest finite key.
uint bound_of(uint row, uint want, uint highest) {
    bool by_blocks = p.NB >= 4u * want;
    uint enough = want + want / 4u, bound = KEY_NEG_INF + 1u;
    float near = 0.0, far = 0.0, at = 8.0;
    for (uint round = 0u; round < ROUNDS; round++) {
        uint key = max(key_of(value_of(highest) - at), KEY_NEG_INF + 1u), n = reach(row, key, by_blocks);
        if (n >= want) {
            bound = key;
            far = at;
            if (n <= enough) break;
        } else {
            if (at > 1e30) break;
            near = at;
        }
        at = far > 0.0 ? 0.5 * (near + far) : at * at;
    }
    return bound;
}

bool before(uint a_key, uint a_id, uint b_key, uint b_id) { return a_key > b_key || (a_key == b_key && a_id < b_id); }

void place(uint i, uint n, uint rank, uint want) {
    if (i >= n || rank >= want) return;
    r_key[rank] = s_key[i];
    r_id[rank] = s_id[i];
    r_count[rank] = 0u;
    r_last[rank] = 0xFFFFFFFFu;
}

// The `want` best finite logits into r_key and r_id; returns how many there are.
uint gather_best(uint row, uint want, uint highest) {
    uint n = collect(row, bound_of(row, want, highest));
    if (n > CAP) {
        collect_exact(row, want);
        n = s_n;
    }
    for (uint i = gl_LocalInvocationIndex; i < n; i += 4u * WG) {      // four at a time: each load serves all
        uvec4 at = min(uvec4(i, i + WG, i + 2u * WG, i + 3u * WG), uvec4(CAP - 1u)), rank = uvec4(0u);
        uvec4 key = uvec4(s_key[at.x], s_key[at.y], s_key[at.z], s_key[at.w]);
        uvec4 id = uvec4(s_id[at.x], s_id[at.y], s_id[at.z], s_id[at.w]);
        for (uint j = 0u; j < n; j++) {
            uint k = s_key[j], other = s_id[j];
            rank += uvec4(before(k, other, key.x, id.x), before(k, other, key.y, id.y),
                          before(k, other, key.z, id.z), before(k, other, key.w, id.w));
        }
        place(i, n, rank.x, want);
        place(i + WG, n, rank.y, want);
        place(i + 2u * WG, n, rank.z, want);
        place(i + 3u * WG, n, rank.w, want);
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
