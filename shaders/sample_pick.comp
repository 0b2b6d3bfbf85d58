#version 450
#include "sample_pick.contract.glsl"
#include "include/philox.glsl"
#include "include/sample_collect.glsl"
#include "include/sample_select.glsl"

// One workgroup per row: top-k, top-p, min-p, temperature and the draw. Kept candidates are a beginning of the order
// (logit descending, id ascending); the draw inverts the cumulative mass in order of id, so that two candidates that
// swap places by a rounding error do not change the token.

const uint K_FAST = 256u;       // largest top_k that goes by block maxima
const uint PER = CAP / WG;
shared uint s_token;
shared uint s_total_lo;
shared uint s_total_hi;

struct Params {
    uint k;             // V: off
    uint share;         // P_OFF: off
    uint min_key;       // keys below are dropped
    uvec2 draw;         // 64 random bits
    uvec2 total;        // mass of the k best where the list does not hold them all, else 0
};

bool better(uint a_key, uint a_id, uint b_key, uint b_id) {
    return a_key > b_key || (a_key == b_key && a_id < b_id);
}

// The draw among the n entries of the list, which holds at least the k best logits, or all from min_key up.
uint pick_listed(uint n, Params q) {
    uint tid = gl_LocalInvocationIndex;
    bool by_mass = q.share != P_OFF;
    if (by_mass) {
        for (uint i = tid; i < n; i += WG) {
            precise float d = value_of(s_key[i]) - sel_top;
            uvec2 w = mass_parts(d);
            s_hi[i] = w.x;
            s_lo[i] = w.y;
        }
    }
    barrier();
    uvec2 before[PER];
    bool kept[PER];
    for (uint c = 0u; c < PER; c++) {
        uint i = c * WG + tid;
        if (c * WG >= n) break;
        uint key = i < n ? s_key[i] : 0u, id = i < n ? s_id[i] : 0u, rank = 0u;
        uvec2 parts = uvec2(0u);
        for (uint j = 0u; j < n; j++) {
            uint ahead = better(s_key[j], s_id[j], key, id) ? 1u : 0u;
            rank += ahead;
            if (by_mass) parts += ahead * uvec2(s_hi[j], s_lo[j]);
        }
        before[c] = parts64(parts);
        kept[c] = i < n && rank < q.k && key >= q.min_key;
        if (by_mass && i < n && rank == min(q.k, n) - 1u) {
            uvec2 total = parts64(parts + uvec2(s_hi[i], s_lo[i]));
            s_total_lo = total.x;
            s_total_hi = total.y;
        }
    }
    barrier();
    bool known = (q.total.x | q.total.y) != 0u;
    uvec2 target = share64(known ? q.total : uvec2(s_total_lo, s_total_hi), q.share);
    uvec2 sum = uvec2(0u);
    for (uint c = 0u; c < PER; c++) {
        uint i = c * WG + tid;
        if (i >= n) break;
        precise float d = value_of(s_key[i]) - sel_top;
        precise float t = d * sel_inv_temp;
        bool in_set = kept[c] && (!by_mass || less64(before[c], target));
        uvec2 w = in_set ? mass_parts(t) : uvec2(0u);
        s_hi[i] = w.x;
        s_lo[i] = w.y;
        sum += w;
    }
    uint sum_hi = wg_add(sum.x), sum_lo = wg_add(sum.y);
    uvec2 r = mulhi64(parts64(uvec2(sum_hi, sum_lo)), q.draw);
    for (uint i = tid; i < n; i += WG) {
        uint id = s_id[i];
        uvec2 w = uvec2(s_hi[i], s_lo[i]), parts = uvec2(0u);
        if ((w.x | w.y) != 0u) {
            for (uint j = 0u; j < n; j++) parts += (s_id[j] < id ? 1u : 0u) * uvec2(s_hi[j], s_lo[j]);
            if (!less64(r, parts64(parts)) && less64(r, parts64(parts + w))) s_token = id;
        }
    }
    barrier();
    return s_token;
}

uint pick_whole(uint row, Params q) {
    if (q.k < p.V) cut_count(row, q.k);
    if (q.share != P_OFF) cut_mass(row, q.share);
    if (q.min_key > cut_key) {
        cut_key = q.min_key;
        cut_id = 0xFFFFFFFFu;
    }
    return id_of_key(select(DRAW, row, q.draw).key);
}

// With no limit at all: the 4096 logits that the draw falls into by sample_mass's sums, then the logit among them.
uint pick_open(uint row, Params q) {
    uint groups = (p.V + 4095u) / 4096u;
    uvec2 total = uvec2(0u);
    for (uint g = 0u; g < groups; g++) total = add64(total, mass[row * 256u + g]);
    uvec2 target = add64(mulhi64(total, q.draw), uvec2(1u, 0u));
    uint group = 0u;
    for (; group + 1u < groups && less64(mass[row * 256u + group], target); group++) {
        target = sub64(target, mass[row * 256u + group]);
    }
    sel_first = group * 1024u;
    sel_end = sel_first + 1024u;
    return id_of_key(select(DRAW_AT, row, target).key);
}

// With top-p and no top-k: a key that all candidates reach, from sample_mass's histogram, and the mass of the row.
uint nucleus_bound(uint row, uint share, out uvec2 total) {
    for (uint b = gl_LocalInvocationIndex; b < 256u; b += WG) {
        s_bin_lo[b] = mass[row * 256u + b].x;
        s_bin_hi[b] = mass[row * 256u + b].y;
    }
    total = sum_bins();
    uvec2 rest = share64(total, share);
    uint beyond = 256u - find_bin(rest);    // eighths; logits nearer to the largest are candidates
    precise float least = float(beyond) * 0.12500013;
    least = sel_top - least;
    return key_of(least);
}

// The lowest id among the logits with the largest key.
uint argmax(uint row, uint highest) {
    uint n = collect(row, highest), best = 0xFFFFFFFFu;
    if (n <= CAP) {
        for (uint i = gl_LocalInvocationIndex; i < n; i += WG) best = min(best, s_id[i]);
    } else {
        for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
            uvec4 keys = load_keys(row, i);
            for (uint c = 0u; c < 4u; c++) best = keys[c] == highest ? min(best, 4u * i + c) : best;
        }
    }
    return ~wg_max(~best);
}

uint choose(uint row, uint slot, uint highest) {
    uint at = slot * P_WORDS;
    sel_top = value_of(highest);
    sel_inv_temp = uintBitsToFloat(params[at + P_INV_TEMP]);
    if (sel_inv_temp == 0.0) return argmax(row, highest);
    Params q;
    uint k = params[at + P_TOP_K];
    q.k = k == 0u ? p.V : min(k, p.V);
    q.share = params[at + P_TOP_P];
    precise float least = sel_top + uintBitsToFloat(params[at + P_MIN_P]);
    q.min_key = key_of(least);
    q.draw = philox4x32_10(uvec4(row_pos[row] + 1u, 0u, 0u, 0u), uvec2(params[at + P_SEED_LO], params[at + P_SEED_HI])).xy;

    uint bound = 0u;
    if (q.k <= K_FAST) bound = max(kth_bound(row, q.k, highest), KEY_NEG_INF + 1u);  // -inf has no mass: may be left out
    q.total = uvec2(0u);
    if (q.k == p.V && p.V > CAP && p.exact == 0u && p.has_mass != 0u) {
        if (q.share != P_OFF) bound = max(nucleus_bound(row, q.share, q.total), KEY_NEG_INF + 1u);
        else if (isinf(uintBitsToFloat(params[at + P_MIN_P]))) return pick_open(row, q);
    }
    // Without top-p's share of the mass still to be found, what min-p drops need not be listed.
    if (q.share == P_OFF || (q.total.x | q.total.y) != 0u) bound = max(bound, q.min_key);
    bool listed = p.exact == 0u && (p.V <= CAP || bound > KEY_NEG_INF);
    uint n = listed ? collect(row, p.V <= CAP ? 1u : bound) : CAP + 1u;
    return n <= CAP ? pick_listed(n, q) : pick_whole(row, q);
}

void main() {
    uint row = gl_WorkGroupID.x;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint highest = row_max(row);
    bool finite = highest > KEY_NEG_INF;
    uint token = finite ? choose(row, slot, highest) : 0u;
    if (gl_LocalInvocationIndex == 0u) picked[row] = uvec2(token, finite ? 0u : 1u);
}
