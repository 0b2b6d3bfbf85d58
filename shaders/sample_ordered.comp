#version 450
#include "sample_ordered.contract.glsl"
#include "include/philox.glsl"
#include "include/sample_candidates.glsl"
#include "include/sample_order.glsl"
#include "include/sample_steps.glsl"

// One workgroup per row of a complete chain: the slot's samplers in its order, then the choice of the token. Bias,
// penalties and DRY are done already where nothing else stands before them. docs/sampling.md has the formulas.

const float LN2 = 0.693147181;
vec4 before;                    // what the last token left to mirostat or adaptive-p
uvec4 kept_range;               // mirostat 1: the candidates before BEST_100
uvec4 kept_places;
bool kept_listed;

float word(uint o, uint at) {
    return uintBitsToFloat(order[o + at]);
}

// How many tokens mirostat 1 keeps, from the first candidates of the list (Basu et al., section 4).
uint mirostat_k(float mu) {
    uint pairs = last - first - 1u;
    precise float above = 0.0;
    precise float below = 0.0;
    for (uint i = 0u; i < pairs; i++) {
        precise float t = log_pos(float(i + 2u) / float(i + 1u));
        precise float b = tempered(s_key[first + i]) - tempered(s_key[first + i + 1u]);
        above += t * b;
        below += t * t;
    }
    if (pairs == 0u) return 1u;
    precise float s = above / below;
    precise float e = s - 1.0;
    float ln_v = log_pos(float(p.V));
    // ln of e / (1 - V^-e); for negative e that is ln of |e| V^-|e| / (1 - V^-|e|)
    precise float x = abs(e) * ln_v;
    precise float ln_k = x < 1e-4 ? -log_pos(ln_v) : log_pos(abs(e)) - log_pos(1.0 - exp_neg(-x));
    if (e < 0.0 && x >= 1e-4) ln_k = ln_k - x;
    ln_k = (ln_k + mu * LN2) / max(s, 1e-30);
    if (!(ln_k < ln_v)) return p.V;
    return ln_k <= 0.0 ? 1u : max(uint(1.0 / exp_neg(-ln_k)), 1u);
}

void keep_state() {
    kept_range = uvec4(hi_key, hi_id, cut_key, cut_id);
    kept_places = uvec4(first, last, size, floatBitsToUint(sel_top));
    kept_listed = listed;
}

void restore_state() {
    hi_key = kept_range.x;
    hi_id = kept_range.y;
    cut_key = kept_range.z;
    cut_id = kept_range.w;
    first = kept_places.x;
    last = kept_places.y;
    size = kept_places.z;
    sel_top = uintBitsToFloat(kept_places.w);
    listed = kept_listed;
}

// The temperature that follows the entropy: (sum of e, sum of e * logit) of the candidates.
float dynamic_temperature(uint o, vec2 s) {
    precise float entropy = log_pos(s.x) - s.y / s.x;
    precise float x = clamp(entropy / log_pos(float(size)), 0.0, 1.0);
    float exponent = word(o, O_EXPONENT), lowest = max(word(o, O_TEMPERATURE) - word(o, O_RANGE), 0.0);
    float risen = x > 0.0 ? exp_neg(exponent * log_pos(x)) : exponent == 0.0 ? 1.0 : 0.0;
    precise float t = lowest + (word(o, O_TEMPERATURE) + word(o, O_RANGE) - lowest) * risen;
    return t;
}

// What a step does: changes the scale or what adaptive-p needs here, and says what is to be done to the candidates.
Effect effect_of(uint row, uint slot, uint op, uvec2 total, vec2 s) {
    uint o = slot * O_WORDS;
    Effect none = Effect(NOTHING, 0u, 0.0);
    if (op == TOP_K) {
        size = min(size, order[o + O_TOP_K]);
        return Effect(KEEP_BEST, order[o + O_TOP_K], 0.0);
    }
    if (op == TOP_P) return Effect(KEEP_MASS, order[o + O_TOP_P], 0.0);
    if (op == MIN_P) return Effect(KEEP_ABOVE, 0u, word(o, O_MIN_P));
    if (op == TYPICAL) {
        near_to = s.y / s.x;
        return Effect(KEEP_NEAR, order[o + O_TYPICAL], 0.0);
    }
    if (op == TOP_N_SIGMA) {
        if (size <= 1u) return none;
        precise float least = -word(o, O_SIGMA) * sqrt(s.y / s.x);
        return Effect(KEEP_ABOVE, 0u, least);
    }
    if (op == XTC) {
        uvec2 key = uvec2(params[slot * P_WORDS + P_SEED_LO], params[slot * P_WORDS + P_SEED_HI]);
        uint chance = philox4x32_10(uvec4(row_pos[row] + 1u, 0u, 0u, TAG_XTC), key).x;
        bool happens = order[o + O_XTC_CHANCE] == P_OFF || chance < order[o + O_XTC_CHANCE];
        return happens && size > 1u ? Effect(LEAVE_TOP, order[o + O_XTC_THRESHOLD], 0.0) : none;
    }
    if (op == TEMPERATURE) {
        float t = word(o, O_TEMPERATURE);
        if (word(o, O_RANGE) > 0.0) {
            if (size <= 1u) return none;
            t = dynamic_temperature(o, s);
        }
        if (!(t > 0.0)) return Effect(KEEP_FIRST, 0u, 0.0);
        precise float scale = sel_inv_temp * min(1.0 / t, 1e30);
        sel_inv_temp = min(scale, 1e30);
        return none;
    }
    if (op == BEST_100) {
        keep_state();
        return Effect(KEEP_BEST, 100u, 0.0);
    }
    if (op == MIROSTAT_K) {
        uint k = mirostat_k(before.x);
        restore_state();
        return Effect(KEEP_BEST, k, 0.0);
    }
    if (op == MIROSTAT_2) {
        precise float least = log_pos(to_float(total)) - 40.0 * LN2;
        least = least - before.x * LN2;
        return least > 0.0 ? Effect(KEEP_FIRST, 0u, 0.0) : Effect(KEEP_ABOVE, 0u, least);
    }
    if (op == ADAPTIVE) {
        own_total = to_float(total);
        precise float to = before.y == 0.0 ? word(o, O_TARGET) : 2.0 * word(o, O_TARGET) - before.x / before.y;
        near_to = clamp(to, 0.0, 1.0);
        own_best = largest_own(row);
        return none;
    }
    return Effect(DRAW_ONE, 0u, 0.0);
}

// What goes on to the next token: mirostat's mu, or adaptive-p's sums.
vec4 carried(uint o, uint finish, Chosen c) {
    if (finish == FINISH_ADAPTIVE) {
        precise float seen = to_float(parts64(mass_parts(tempered(c.key)))) / own_total;
        return vec4(seen + word(o, O_DECAY) * before.x, 1.0 + word(o, O_DECAY) * before.y, 0.0, 0.0);
    }
    precise float surprise = -log_pos(to_float(c.weight) / to_float(c.total)) / LN2;
    return vec4(before.x - word(o, O_ETA) * (surprise - word(o, O_TAU)), 0.0, 0.0, 0.0);
}

Chosen run_step(uint row, uint slot, uint op, bool adaptive) {
    uint at = slot * P_WORDS;
    if (op == PENALTIES || op == DRY) {
        uint list = op == DRY ? 1u : 0u, from = (row * 2u + list) * p.N;
        uint n = min(changes[from].x, p.N - 1u);
        if (listed) list_change(row, list, n, from + 1u, at);
        else row_change(row, list, n, from + 1u, at);
        return Chosen(0u, 0u, uvec2(0u), uvec2(0u));
    }
    bool scaled = op == TEMPERATURE && word(slot * O_WORDS, O_RANGE) > 0.0;
    vec2 s = vec2(0.0);
    if (op == TOP_N_SIGMA || op == TYPICAL || scaled) {
        float mean = 0.0, n = 0.0;
        for (uint what = op == TOP_N_SIGMA ? SUM_LOGITS : SUM_ENTROPY;; what = SUM_SQUARES) {
            s = sums(row, what, mean);
            if (what != SUM_LOGITS) break;
            n = s.x;
            mean = s.y / s.x;
        }
        if (op == TOP_N_SIGMA) s.x = n;
    }
    uvec2 total = uvec2(0u);
    bool massed = op == XTC || op == MIROSTAT_2 || op == ADAPTIVE;
    if (listed && (massed || op == TOP_P || op == TYPICAL || op == CHOOSE)) {
        total = list_masses(op == CHOOSE && adaptive ? DRAW_OWN : BY_MASS);
    } else if (!listed && massed) {
        total = row_mass(row);
    }
    Effect e = effect_of(row, slot, op, total, s);
    uvec2 seed = uvec2(params[at + P_SEED_LO], params[at + P_SEED_HI]);
    uvec2 bits = philox4x32_10(uvec4(row_pos[row] + 1u, 0u, 0u, 0u), seed).xy;
    bool recount = op == TOP_P || op == MIN_P || op == TYPICAL;
    bool may_list = p.exact == 0u || op == BEST_100;
    if (!listed) return row_apply(row, e, total, bits, adaptive, may_list, recount);
    Chosen c = list_apply(e, total, bits);
    if (recount) size = last - first;
    return c;
}

// Step `i` of a row: its samplers, then what its choice of the token takes.
uint step_at(uint o, uint i) {
    uint steps = min(order[o + O_STEPS], 16u);
    if (i < steps) return order[o + O_CODES + i / 8u] >> (4u * (i % 8u)) & 15u;
    uint finish = order[o + O_FINISH], j = i - steps;
    uint more = finish == FINISH_MIROSTAT ? BEST_100 | MIROSTAT_K << 4 | CHOOSE << 8
        : finish == FINISH_MIROSTAT2 ? MIROSTAT_2 | CHOOSE << 4 : finish == FINISH_ADAPTIVE ? ADAPTIVE | CHOOSE << 4 : CHOOSE;
    return more >> (4u * j) & 15u;
}

void main() {
    uint row = gl_WorkGroupID.x;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint o = slot * O_WORDS, finish = order[o + O_FINISH], pos = row_pos[row];
    if (finish == 0u) return;
    uint highest = row_max(row);
    if (highest <= KEY_NEG_INF) return;     // sample_pick has said so
    before = carry[slot * p.RING + pos % p.RING];
    sel_top = value_of(highest);
    sel_inv_temp = 1.0;
    size = p.V;
    cut_key = KEY_NEG_INF + 1u;
    if (p.V <= CAP && p.exact == 0u) sort_list(collect(row, cut_key));
    Chosen c;
    for (uint i = 0u; i < 20u; i++) {
        uint op = step_at(o, i);
        c = run_step(row, slot, op, finish == FINISH_ADAPTIVE);
        if (op == CHOOSE) break;
    }
    if (gl_LocalInvocationIndex != 0u) return;
    picked[row] = uvec2(c.token, 0u);
    if (finish != FINISH_DRAW) carry[slot * p.RING + (pos + 1u) % p.RING] = carried(o, finish, c);
}
