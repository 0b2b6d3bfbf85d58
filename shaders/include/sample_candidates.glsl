// The candidates of one row while samplers work on it with one workgroup. In the order (logit descending, id ascending)
// they are always a range, whatever the filters: some drop the end, XTC the beginning, typical sampling both. Up to CAP
// of them are a sorted list in shared memory, where a filter is a new first or last; more are bounds on the row itself.
// Temperature is only remembered: a candidate's logit is its value times sel_inv_temp.
// Expects what sample_collect.glsl does.
// Mesa's CPU drivers end all loops of an invocation after 65,535 iterations together, hence the inner loops of a fixed
// length, which are unrolled, and the number of threads that add_sampling chooses.

#include "sample_collect.glsl"

uint hi_key = 0xFFFFFFFFu;  // the whole row: candidates are at or behind this one in the order,
uint hi_id = 0u;            // at or before (cut_key, cut_id)
bool listed = false;
uint first = 0u;            // the list: candidates are first .. last - 1
uint last = 0u;
uint size;                  // candidates as llama.cpp counts them: with those that top-n-sigma made impossible
bool fresh = true;          // `maxima` describe the row as it is
float near_to;              // typical sampling: the mean logit, adaptive-p: the target
float own_best;             // adaptive-p: largest of its logits
float own_total;            // and the sum of masses

#define BELOW_TOP(key, id) ((key) < hi_key || ((key) == hi_key && (id) >= hi_id))
#define OWN_WEIGHTS
#include "sample_select.glsl"

const uint LANES = 256u;    // of sums of floats, whatever the workgroup's size
shared float s_sum0[LANES];
shared float s_sum1[LANES];
shared uint s_bound0;
shared uint s_bound1;

float to_float(uvec2 a) {
    precise float x = float(a.y) * 4294967296.0;
    x = x + float(a.x);
    return x;
}

// Logit, less the best candidate's.
float tempered(uint key) {
    precise float d = value_of(key) - sel_top;
    precise float t = d * sel_inv_temp;
    return t;
}

// Adaptive-p's logit: highest where the probability is that aimed at.
float adapted(uint key) {
    uvec2 parts = mass_parts(tempered(key));
    precise float p = to_float(parts64(parts)) / own_total;
    precise float far = abs((p - near_to) * 3.33333333);
    precise float y = -10.0 * far * far / (1.0 + far);
    return y;
}

uvec2 parts_of(uint mode, uint key) {
    return mass_parts(mode == DRAW_OWN ? adapted(key) - own_best : tempered(key));
}

uvec2 weight_of(uint mode, uint key) {
    return mode == BY_COUNT || mode == TIES ? uvec2(1u, 0u) : parts64(parts_of(mode, key));
}

float apart(uint key) {
    precise float a = abs(tempered(key) - near_to);
    return a;
}

uint order_of(uint mode, uint key, uint id) {
    return mode >= TIES ? id_key(id) : mode == BY_NEARNESS ? ~floatBitsToUint(apart(key)) : key;
}

// Sums over the candidates, added up in an order that the workgroup's size does not change.
const uint SUM_LOGITS = 0u;     // (number, sum of logits)
const uint SUM_SQUARES = 1u;    // (0, sum of squared distances to `mean`)
const uint SUM_ENTROPY = 2u;    // (sum of exponentials, sum of them times the logit)

vec2 term(uint what, float mean, uint key, uint id) {
    if (key == 0u || !(listed || inside(key, id))) return vec2(0.0);
    float t = tempered(key);
    precise float off = t - mean;
    precise float e = exp_neg(t);
    precise float et = e == 0.0 ? 0.0 : e * t;
    return what == SUM_LOGITS ? vec2(1.0, t) : what == SUM_SQUARES ? vec2(0.0, off * off) : vec2(e, et);
}

vec2 sums(uint row, uint what, float mean) {
    barrier();
    for (uint lane = gl_LocalInvocationIndex; lane < LANES; lane += WG) {
        vec2 sum = vec2(0.0);
        for (uint i = first + lane; i < last && listed; i += LANES) sum += term(what, mean, s_key[i], s_id[i]);
        for (uint i = lane; i < (p.V + 3u) / 4u && !listed; i += LANES) {
            uvec4 keys = load_keys(row, i);
            for (uint c = 0u; c < 4u; c++) sum += term(what, mean, keys[c], 4u * i + c);
        }
        s_sum0[lane] = sum.x;
        s_sum1[lane] = sum.y;
    }
    barrier();
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        for (uint lane = gl_LocalInvocationIndex; lane < step; lane += WG) {
            s_sum0[lane] += s_sum0[lane + step];
            s_sum1[lane] += s_sum1[lane + step];
        }
        barrier();
    }
    return vec2(s_sum0[0], s_sum1[0]);
}

// --- the list ---

bool better(uint a_key, uint a_id, uint b_key, uint b_id) {
    return a_key > b_key || (a_key == b_key && a_id < b_id);
}

// Make the candidates among the n entries of s_key and s_id the list.
void sort_list(uint n) {
    uint tid = gl_LocalInvocationIndex, kept = 0u;
    barrier();
    uint end = (n + 7u) / 8u * 8u;
    for (uint i = tid; i < end; i += WG) {
        bool in_range = i < n && s_key[i] != 0u && inside(s_key[i], s_id[i]);
        if (!in_range) s_key[i] = 0u;
        kept += in_range ? 1u : 0u;
    }
    kept = wg_add(kept);
    for (uint i = tid; i < n; i += WG) {
        uint key = s_key[i], id = s_id[i], rank = 0u;
        if (key == 0u) continue;
        for (uint j = 0u; j < end; j += 8u) {
            for (uint c = 0u; c < 8u; c++) rank += better(s_key[j + c], s_id[j + c], key, id) ? 1u : 0u;
        }
        s_hi[rank] = key;
        s_lo[rank] = id;
    }
    barrier();
    for (uint i = tid; i < kept; i += WG) {
        s_key[i] = s_hi[i];
        s_id[i] = s_lo[i];
    }
    barrier();
    listed = true;
    first = 0u;
    last = kept;
    sel_top = value_of(s_key[0]);
}

// Mass parts of the list's candidates into s_hi and s_lo, sums of 32 each into the bins; returns the sum of all.
uvec2 list_masses(uint mode) {
    uint tid = gl_LocalInvocationIndex, end = (last + 31u) / 32u * 32u;
    barrier();
    for (uint i = tid; i < end; i += WG) {
        uvec2 w = i >= first && i < last ? parts_of(mode, s_key[i]) : uvec2(0u);
        s_hi[i] = w.x;
        s_lo[i] = w.y;
    }
    barrier();
    for (uint g = tid; g < end / 32u; g += WG) {
        uvec2 parts = uvec2(0u);
        for (uint i = 32u * g; i < 32u * g + 32u; i++) parts += uvec2(s_hi[i], s_lo[i]);
        uvec2 sum = parts64(parts);
        s_bin_lo[g] = sum.x;
        s_bin_hi[g] = sum.y;
    }
    barrier();
    uvec2 total = uvec2(0u);
    for (uint g = 0u; g < end / 32u; g++) total = add64(total, uvec2(s_bin_lo[g], s_bin_hi[g]));
    return total;
}

uvec2 list_mass(uint i) {
    return parts64(uvec2(s_hi[i], s_lo[i]));
}

// The place at which the running sum of masses reaches `rest`.
uint list_reach(uvec2 rest) {
    uint group = 0u, groups = (last + 31u) / 32u;
    for (; group + 1u < groups; group++) {
        uvec2 w = uvec2(s_bin_lo[group], s_bin_hi[group]);
        if (!less64(w, rest)) break;
        rest = sub64(rest, w);
    }
    uint i = 32u * group, end = min(i + 32u, last);
    for (; i + 1u < end; i++) {
        uvec2 w = list_mass(i);
        if (!less64(w, rest)) break;
        rest = sub64(rest, w);
    }
    return i;
}

// How many candidates have a logit of at least `least`; they are the first.
uint list_count(float least) {
    uint n = 0u;
    for (uint i = first + gl_LocalInvocationIndex; i < last; i += WG) n += tempered(s_key[i]) >= least ? 1u : 0u;
    return wg_add(n);
}

// The place that the 64 random bits fall on, going by id.
uint list_draw(uvec2 total, uvec2 draw) {
    uvec2 r = mulhi64(total, draw);
    for (uint i = first + gl_LocalInvocationIndex; i < last; i += WG) {
        uvec2 w = uvec2(s_hi[i], s_lo[i]), before = uvec2(0u);
        if ((w.x | w.y) == 0u) continue;
        for (uint j = 0u; j < last; j += 8u) {      // there is no mass in front of the first and behind the last
            for (uint c = 0u; c < 8u; c++) before += (s_id[j + c] < s_id[i] ? 1u : 0u) * uvec2(s_hi[j + c], s_lo[j + c]);
        }
        if (!less64(r, parts64(before)) && less64(r, parts64(before + w))) s_bound0 = i;
    }
    barrier();
    return s_bound0;
}

// --- the whole row ---

// All candidates into s_key and s_id, as far as they fit; returns how many there are.
uint gather(uint row) {
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_n = 0u;
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        if (max(max(keys.x, keys.y), max(keys.z, keys.w)) < cut_key) continue;
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] != 0u && inside(keys[c], 4u * i + c)) push_entry(keys[c], 4u * i + c);
        }
    }
    barrier();
    return s_n;
}

// The list, where the candidates fit into it. Returns how many there are.
uint settle(uint row, bool may_list) {
    uint n = fresh && may_list ? collect(row, cut_key) : CAP + 1u;
    if (n > CAP) n = gather(row);
    if (n > CAP || !may_list) return n;
    sort_list(n);
    return last;
}

// The largest key and the lowest id that has it, of all candidates of the row; key 0 where there is none.
uvec2 row_best(uint row) {
    uint key = 0u, id = 0u;
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            bool ahead = keys[c] > key && inside(keys[c], 4u * i + c);
            key = ahead ? keys[c] : key;
            id = ahead ? 4u * i + c : id;
        }
    }
    uint highest = wg_max(key);
    return uvec2(highest, ~wg_max(key == highest ? ~id : 0u));
}

uvec2 row_mass(uint row) {
    uvec2 sum = uvec2(0u);
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_bin_lo[0] = s_bin_hi[0] = 0u;
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] != 0u && inside(keys[c], 4u * i + c)) sum = add64(sum, parts64(mass_parts(tempered(keys[c]))));
        }
    }
    uint before = atomicAdd(s_bin_lo[0], sum.x);
    atomicAdd(s_bin_hi[0], sum.y + (before + sum.x < before ? 1u : 0u));
    barrier();
    return uvec2(s_bin_lo[0], s_bin_hi[0]);
}

// The largest of adaptive-p's logits.
float largest_own(uint row) {
    uint best = 0u;
    for (uint i = first + gl_LocalInvocationIndex; i < last && listed; i += WG) best = max(best, key_of(adapted(s_key[i])));
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u && !listed; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] != 0u && inside(keys[c], 4u * i + c)) best = max(best, key_of(adapted(keys[c])));
        }
    }
    return value_of(wg_max(best));
}
