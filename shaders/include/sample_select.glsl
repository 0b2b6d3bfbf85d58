// Exact selection over a whole row with one workgroup, for rows whose candidates do not fit into the short list.
// Weights are integers, so sums are exact and need no order. After sample_collect.glsl; uses its shared arrays' room.
// With OWN_WEIGHTS the shader defines weight_of and order_of itself, and candidates begin at BELOW_TOP.

const uint BY_COUNT = 0u;   // order: key descending; weight 1
const uint BY_MASS = 1u;    // order: key descending; weight: mass at temperature 1
const uint BY_NEARNESS = 2u;    // order and weight: the shader's own
const uint TIES = 3u;       // order: id ascending; only keys equal to cut_key; weight 1
const uint DRAW = 4u;       // order: id ascending; weight: mass at the row's temperature
const uint DRAW_AT = 5u;    // the same, with the target given
const uint DRAW_OWN = 6u;   // as DRAW, weight: the shader's own

shared uint s_bin_lo[256];
shared uint s_bin_hi[256];

// The cut in the order (key descending, id ascending): what lies up to it is kept.
uint cut_key = 1u;
uint cut_id = 0xFFFFFFFFu;
float sel_top;              // largest logit
float sel_inv_temp;
uint sel_first = 0u;        // range that select() goes over, in vectors of four logits
uint sel_end = 0xFFFFFFFFu;

#ifndef BELOW_TOP
#define BELOW_TOP(key, id) true
#endif

bool inside(uint key, uint id) {
    return (key > cut_key || (key == cut_key && id <= cut_id)) && BELOW_TOP(key, id);
}

struct Found {
    uint key;       // where the running weight reaches the target
    uvec2 rest;     // target minus the weight before that key
    uvec2 here;     // weight of the elements with exactly that key
    uvec2 total;
};

// Ids as 24-bit keys that fall with the id, so that the digits 16..23, 8..15, 0..7 hold 8, 8 and 2 bits of it.
uint id_key(uint id) {
    return ((0x3FFFFu - id) << 6) | 1u;
}

uint id_of_key(uint key) {
    return 0x3FFFFu - (key >> 6);
}

uvec2 weight_of(uint mode, uint key);
uint order_of(uint mode, uint key, uint id);

#ifndef OWN_WEIGHTS
uvec2 weight_of(uint mode, uint key) {
    if (mode == BY_COUNT || mode == TIES) return uvec2(1u, 0u);
    precise float d = value_of(key) - sel_top;
    precise float t = d * sel_inv_temp;
    return parts64(mass_parts(mode >= DRAW ? t : d));
}

uint order_of(uint mode, uint key, uint id) {
    return mode >= TIES ? id_key(id) : key;
}
#endif

void tally(uint mode, uint row, uint shift, uint prefix, bool first) {
    uint above = shift + 8u;
    uint end = min(sel_end, (p.V + 3u) / 4u);
    for (uint i = sel_first + gl_LocalInvocationIndex; i < end; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            uint key = keys[c], id = 4u * i + c;
            bool member = key != 0u && (mode == TIES ? key == cut_key && BELOW_TOP(key, id) : inside(key, id));
            uint k = order_of(mode, key, id);
            member = member && (first || (k >> above) == (prefix >> above));
            if (member) {
                uvec2 w = weight_of(mode, key);
                uint bin = (k >> shift) & 255u;
                uint before = atomicAdd(s_bin_lo[bin], w.x);
                uint carry = before + w.x < before ? 1u : 0u;
                if (w.y + carry != 0u) atomicAdd(s_bin_hi[bin], w.y + carry);
            }
        }
    }
}

// Sums of 16 bins each into s_lo / s_hi[0..15]; returns the sum of all. For all threads, between barriers.
uvec2 sum_bins() {
    uint tid = gl_LocalInvocationIndex;
    barrier();
    for (uint g = tid; g < 16u; g += WG) {
        uvec2 sum = uvec2(0u);
        for (uint b = 16u * g; b < 16u * g + 16u; b++) sum = add64(sum, uvec2(s_bin_lo[b], s_bin_hi[b]));
        s_lo[g] = sum.x;
        s_hi[g] = sum.y;
    }
    barrier();
    uvec2 total = uvec2(0u);
    for (uint g = 0u; g < 16u; g++) total = add64(total, uvec2(s_lo[g], s_hi[g]));
    return total;
}

// From the highest bin down: the one at which the running sum reaches `rest`, which loses the bins passed over.
uint find_bin(inout uvec2 rest) {
    uint group = 15u;
    for (; group > 0u; group--) {
        uvec2 w = uvec2(s_lo[group], s_hi[group]);
        if (!less64(w, rest)) break;
        rest = sub64(rest, w);
    }
    uint bin = 16u * group + 15u;
    for (; bin > 16u * group; bin--) {
        uvec2 w = uvec2(s_bin_lo[bin], s_bin_hi[bin]);
        if (!less64(w, rest)) break;
        rest = sub64(rest, w);
    }
    return bin;
}

// The first element, in the mode's order, at which the running weight reaches the target. The target is `arg` for the
// counting modes and DRAW_AT, ceil(total * arg.x / 2^32) for BY_MASS, floor(total * arg / 2^64) + 1 for the others.
Found select(uint mode, uint row, uvec2 arg) {
    uint tid = gl_LocalInvocationIndex;
    Found f = Found(0u, arg, uvec2(0u), uvec2(0u));
    uint top_shift = mode >= TIES ? 16u : 24u;
    for (int shift = int(top_shift); shift >= 0; shift -= 8) {
        barrier();
        for (uint b = tid; b < 256u; b += WG) {
            s_bin_lo[b] = 0u;
            s_bin_hi[b] = 0u;
        }
        barrier();
        tally(mode, row, uint(shift), f.key, uint(shift) == top_shift);
        uvec2 total = sum_bins();
        if (uint(shift) == top_shift) {
            f.total = total;
            if (mode == BY_MASS) f.rest = share64(total, arg.x);
            bool share = mode == DRAW || mode == DRAW_OWN || mode == BY_NEARNESS;
            if (share) f.rest = add64(mulhi64(total, arg), uvec2(1u, 0u));
        }
        uint bin = find_bin(f.rest);
        f.here = uvec2(s_bin_lo[bin], s_bin_hi[bin]);
        f.key |= bin << uint(shift);
    }
    return f;
}

// Move the cut to the n best by (key, id).
void cut_count(uint row, uint n) {
    Found f = select(BY_COUNT, row, uvec2(n, 0u));
    cut_key = f.key;
    cut_id = 0xFFFFFFFFu;
    if (less64(f.rest, f.here)) cut_id = id_of_key(select(TIES, row, f.rest).key);
}

// Move the cut to the shortest beginning of what is inside that holds the share (2^32 = 1) of its mass.
void cut_mass(uint row, uint share) {
    Found f = select(BY_MASS, row, uvec2(share, 0u));
    if (f.key != cut_key) cut_id = 0xFFFFFFFFu;
    cut_key = f.key;
    uvec2 each = weight_of(BY_MASS, f.key);
    uint n = 1u;                // ceil(rest / each): a row has at most 2^18 logits
    for (uint step = 1u << 18; step > 0u; step >>= 1) {
        if (less64(mul64(each, n + step - 1u), f.rest)) n += step;
    }
    if (less64(mul64(each, n), f.here)) cut_id = id_of_key(select(TIES, row, uvec2(n, 0u)).key);
}
