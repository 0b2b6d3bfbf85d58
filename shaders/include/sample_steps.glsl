// What a sampler does to the candidates, whichever sampler it is, on the list or on the whole row. After
// sample_candidates.glsl and sample_order.glsl.

const uint NOTHING = 0u;
const uint KEEP_BEST = 1u;      // the k best
const uint KEEP_MASS = 2u;      // the shortest beginning with that share of the probability
const uint KEEP_NEAR = 3u;      // the nearest to the mean logit, until their probability passes that share
const uint KEEP_ABOVE = 4u;     // those whose logit, less the best one's, is at least so much
const uint KEEP_FIRST = 5u;     // the best
const uint LEAVE_TOP = 6u;      // without those that reach that share of the probability, but for the last of them
const uint DRAW_ONE = 7u;

struct Effect {
    uint kind;
    uint n;             // k, or the share
    float least;
};

struct Chosen {
    uint token;
    uint key;
    uvec2 weight;
    uvec2 total;
};

const uint K_FAST = 256u;       // largest k that goes by block maxima

// The least n with n * each >= rest; a row has at most 2^18 logits.
uint ceil_of(uvec2 rest, uvec2 each) {
    uint n = 1u;
    for (uint step = 1u << 18; step > 0u; step >>= 1) {
        if (less64(mul64(each, n + step - 1u), rest)) n += step;
    }
    return n;
}

uvec2 floor_share(uvec2 total, uint share) {
    return mulhi64(total, uvec2(0u, share));
}

// --- on the list; its masses are there where the effect needs them, `total` is their sum ---

// Among equally near ones those above the mean come first, all that are equal; below it the best and lowest ids.
void list_near(uvec2 target) {
    if (gl_LocalInvocationIndex == 0u) {
        uint middle = first;
        while (middle < last && tempered(s_key[middle]) > near_to) middle++;
        uint high = middle, low = middle;       // kept are high .. low - 1
        uvec2 sum = uvec2(0u);
        float edge = -1.0;      // how far the newest one above the mean is
        while (high > first || low < last) {
            float above = high > first ? apart(s_key[high - 1u]) : 0.0, below = low < last ? apart(s_key[low]) : 0.0;
            bool up = high > first && (low == last || above <= below);
            if (!less64(sum, target) && !(up && above == edge)) break;
            if (up) high--;
            sum = add64(sum, list_mass(up ? high : low));
            if (!up) low++;
            edge = up ? above : -1.0;
        }
        s_bound0 = high;
        s_bound1 = low;
    }
    barrier();
    first = s_bound0;
    last = s_bound1;
}

Chosen list_apply(Effect e, uvec2 total, uvec2 bits) {
    if (e.kind == KEEP_BEST) last = min(last, first + e.n);
    if (e.kind == KEEP_FIRST) last = first + 1u;
    if (e.kind == KEEP_MASS) last = list_reach(share64(total, e.n)) + 1u;
    if (e.kind == KEEP_NEAR) list_near(add64(floor_share(total, e.n), uvec2(1u, 0u)));
    if (e.kind == KEEP_ABOVE) last = first + max(list_count(e.least), 1u);
    if (e.kind == LEAVE_TOP) {
        uvec2 least = share64(total, e.n);
        uint n = 0u;
        for (uint i = first + gl_LocalInvocationIndex; i < last; i += WG) n += less64(list_mass(i), least) ? 0u : 1u;
        n = max(wg_add(n), 1u) - 1u;
        first += n;
        size -= n;
    }
    sel_top = value_of(s_key[first]);
    if (e.kind != DRAW_ONE) return Chosen(0u, 0u, uvec2(0u), uvec2(0u));
    uint i = list_draw(total, bits);
    return Chosen(s_id[i], s_key[i], list_mass(i), total);
}

// --- on the whole row; a cut goes to `key`, and only `n` of those equal to it stay if `ties` ---

struct Cut {
    uint key;
    bool ties;
    uint n;
};

Cut same_cut() {
    return Cut(cut_key, false, 0u);
}

Cut row_near(uint row, Found f) {
    float far = uintBitsToFloat(~f.key);
    uint high = 0u, low = 0xFFFFFFFFu, nearer = 0xFFFFFFFFu;
    uvec2 above = uvec2(0u);    // mass of those above the mean that are exactly so far
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_bin_lo[0] = s_bin_hi[0] = 0u;
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] == 0u || !inside(keys[c], 4u * i + c) || apart(keys[c]) > far) continue;
            bool edge = apart(keys[c]) == far, up = tempered(keys[c]) > near_to;
            high = max(high, keys[c]);
            low = min(low, keys[c]);
            if (!edge || up) nearer = min(nearer, keys[c]);
            if (edge && up) above = add64(above, weight_of(BY_MASS, keys[c]));
        }
    }
    barrier();
    uint before = atomicAdd(s_bin_lo[0], above.x);
    atomicAdd(s_bin_hi[0], above.y + (before + above.x < before ? 1u : 0u));
    high = wg_max(high);
    low = ~wg_max(~low);
    nearer = ~wg_max(~nearer);
    above = uvec2(s_bin_lo[0], s_bin_hi[0]);
    uvec2 each = weight_of(BY_MASS, low);
    if (high != hi_key) hi_id = 0u;
    hi_key = high;
    sel_top = value_of(high);
    if (!less64(above, f.rest)) return Cut(nearer, false, 0u);
    uint n = ceil_of(sub64(f.rest, above), each);
    return Cut(low, less64(mul64(each, n), sub64(f.here, above)), n);
}

void row_leave_top(uint row, uvec2 least) {
    uint n = 0u, lowest = 0xFFFFFFFFu, id = 0u;
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] == 0u || !inside(keys[c], 4u * i + c)) continue;
            if (less64(weight_of(BY_MASS, keys[c]), least)) continue;
            n++;
            id = keys[c] < lowest || (keys[c] == lowest && 4u * i + c > id) ? 4u * i + c : id;
            lowest = min(lowest, keys[c]);
        }
    }
    n = wg_add(n);
    uint key = ~wg_max(~lowest);
    id = wg_max(lowest == key ? id : 0u);
    if (n < 2u) return;
    hi_key = key;
    hi_id = id;
    sel_top = value_of(key);
    size -= n - 1u;
}

// The k best by block maxima, as a list; false where too many reach the bound.
bool row_fast(uint row, uint k) {
    if (!fresh || hi_key != 0xFFFFFFFFu || k > K_FAST || k >= p.V) return false;
    uint bound = max(kth_bound(row, k, key_of(sel_top)), cut_key);
    uint n = collect(row, bound);
    if (n > CAP) return false;
    sort_list(n);
    last = min(last, k);
    return true;
}

uint selection_of(uint kind, bool own) {
    if (kind == KEEP_BEST) return BY_COUNT;
    if (kind == KEEP_MASS) return BY_MASS;
    if (kind == KEEP_NEAR) return BY_NEARNESS;
    return own ? DRAW_OWN : DRAW;
}

Chosen row_apply(uint row, Effect e, uvec2 total, uvec2 bits, bool own, bool may_list, bool recount) {
    Chosen none = Chosen(0u, 0u, uvec2(0u), uvec2(0u));
    if (e.kind == NOTHING || (e.kind == KEEP_BEST && may_list && row_fast(row, e.n))) return none;
    Cut cut = same_cut();
    if (e.kind == KEEP_BEST || e.kind == KEEP_MASS || e.kind == KEEP_NEAR || e.kind == DRAW_ONE) {
        uvec2 arg = e.kind == KEEP_NEAR ? uvec2(0u, e.n) : e.kind == DRAW_ONE ? bits : uvec2(e.n, 0u);
        Found f = select(selection_of(e.kind, own), row, arg);
        if (e.kind == DRAW_ONE) {
            uint token = id_of_key(f.key);
            return Chosen(token, key_of(logits[row * p.V + token]), f.here, f.total);
        }
        if (e.kind == KEEP_BEST && !less64(f.total, arg)) cut = Cut(f.key, less64(f.rest, f.here), f.rest.x);
        if (e.kind == KEEP_MASS) {
            uvec2 each = weight_of(BY_MASS, f.key);
            uint n = ceil_of(f.rest, each);
            cut = Cut(f.key, less64(mul64(each, n), f.here), n);
        }
        if (e.kind == KEEP_NEAR) cut = row_near(row, f);
    } else if (e.kind == KEEP_ABOVE) {
        precise float bound = sel_top + e.least / sel_inv_temp;
        cut.key = clamp(key_of(bound), cut_key, key_of(sel_top));
    } else if (e.kind == KEEP_FIRST) {
        uvec2 best = row_best(row);
        hi_key = best.x;
        hi_id = best.y;
        cut = Cut(best.x, true, 1u);
    } else {
        row_leave_top(row, share64(total, e.n));
    }
    if (cut.key != cut_key) cut_id = 0xFFFFFFFFu;
    cut_key = cut.key;
    if (cut.ties) cut_id = id_of_key(select(TIES, row, uvec2(cut.n, 0u)).key);
    uint left = settle(row, may_list);
    if (recount) size = left;
    return none;
}

// --- penalties behind other samplers ---

// A logit after what repeats has been taken off; list 0 of `changes` has counts, list 1 DRY's penalties.
float changed(float x, uint list, uint change, uint at) {
    if (!(x > LOWEST)) return x;
    precise float y = x - uintBitsToFloat(change);
    if (list == 0u) {
        y = x > 0.0 ? x * uintBitsToFloat(params[at + P_INV_REPEAT]) : x * uintBitsToFloat(params[at + P_REPEAT]);
        precise float less = float(change) * uintBitsToFloat(params[at + P_FREQUENCY]);
        less = less + uintBitsToFloat(params[at + P_PRESENCE]);
        y = y - less;
    }
    return max(y, LOWEST);
}

void list_change(uint row, uint list, uint n, uint from, uint at) {
    uint end = last;
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < end; i += WG) {
        precise float x = value_of(s_key[i]) * sel_inv_temp;
        uint found = 0u;
        for (uint c = 0u; c < n; c += 8u) {
            for (uint j = c; j < c + 8u; j++) found = changes[from + min(j, n - 1u)].x == s_id[i] ? min(j, n - 1u) + 1u : found;
        }
        if (found > 0u) x = changed(x, list, changes[from + found - 1u].y, at);
        s_key[i] = i < first ? 0u : max(key_of(x), KEY_NEG_INF + 1u);
    }
    hi_key = 0xFFFFFFFFu;
    hi_id = 0u;
    cut_key = KEY_NEG_INF + 1u;
    cut_id = 0xFFFFFFFFu;
    sel_inv_temp = 1.0;
    sort_list(end);
}

// The row itself takes the logits as they are by now, with -inf for what was left out.
void row_write(uint row) {
    if (hi_key == 0xFFFFFFFFu && cut_key == KEY_NEG_INF + 1u && sel_inv_temp == 1.0) return;
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] == 0u) continue;
            precise float scaled = value_of(keys[c]) * sel_inv_temp;
            logits[row * p.V + 4u * i + c] = inside(keys[c], 4u * i + c) ? scaled : value_of(KEY_NEG_INF);
        }
    }
    memoryBarrierBuffer();
    barrier();
}

void row_change(uint row, uint list, uint n, uint from, uint at) {
    row_write(row);
    hi_key = 0xFFFFFFFFu;
    hi_id = 0u;
    cut_key = KEY_NEG_INF + 1u;
    cut_id = 0xFFFFFFFFu;
    sel_inv_temp = 1.0;
    fresh = false;
    for (uint c = gl_LocalInvocationIndex; c < n; c += WG) {
        uvec2 change = changes[from + c];
        logits[row * p.V + change.x] = changed(logits[row * p.V + change.x], list, change.y, at);
    }
    memoryBarrierBuffer();
    barrier();
    sel_top = value_of(row_best(row).x);
}
