// Body of cross_entropy; LOAD4(i) is vector i of the logits, as a storage buffer or as a texel buffer.
#include "reduce.glsl"
#include "order.glsl"
#include "math.glsl"
#include "log_pos.glsl"
#include "stretch.glsl"

// One workgroup a row: read once for maximum and sum together, and with GRAD once more while it becomes its gradient.
// Rows begin anywhere; the vectors of four between the row's ends are taken whole, the up to six elements around them
// one by one. The capped form is a loop of its own: a driver that computes both sides of an `if` still leaves a loop
// at once where nobody is in it.

const float LOWEST = -3.4028235e38;
const uint IGNORED = 0xffffffffu;
const uint EDGES = 6u;

uint base, first4, count4;   // the row, its first whole vector, how many there are
uint begin, end;             // of an invocation's share of them
float top = LOWEST, sum = 0.0;
uint largest = 0u;           // of the bits: above those of -Inf for a negative NaN
int highest = 0;             // of the bits as integers: from 0x7f800000 on for +Inf and positive NaN

void look(vec4 v) {
    uvec4 u = floatBitsToUint(v);
    largest = max(largest, max(max(u.x, u.y), max(u.z, u.w)));
    ivec4 s = floatBitsToInt(v);
    highest = max(highest, max(max(s.x, s.y), max(s.z, s.w)));
}

// e^(-2 |x / cap|), from which tanh and its slope come.
vec4 cap_exp(vec4 x) { return exp(-2.0 * min(abs(x / p.softcap), vec4(40.0))); }

// cap * tanh(x / cap); near zero by its series, because 1 - e cancels there.
vec4 cap_of(vec4 x, vec4 e) {
    vec4 t = min(abs(x / p.softcap), vec4(40.0)), z = t * t;
    vec4 h = mix((1.0 - e) / (1.0 + e), t * (1.0 - z * (0.33333333 - 0.13333333 * z)), lessThan(t, vec4(0.05)));
    return p.softcap * h * sign(x);
}

vec4 plain(vec4 x) {
    look(x);
    return max(x, vec4(LOWEST));
}

vec4 capped(vec4 x) {
    look(x);
    return cap_of(x, cap_exp(x));
}

float max_of(vec4 v) { return max(max(v.x, v.y), max(v.z, v.w)); }

// Sixteen elements enter the running maximum and sum: the sum is scaled once for all of them.
void enter(vec4 a, vec4 b, vec4 c, vec4 d) {
    float higher = max(top, max_of(max(max(a, b), max(c, d))));
    vec4 e = (exp(a - higher) + exp(b - higher)) + (exp(c - higher) + exp(d - higher));
    sum = sum * (top == higher ? 1.0 : exp(top - higher)) + ((e.x + e.y) + (e.z + e.w));
    top = higher;
}

void enter(vec4 a) {
    float higher = max(top, max_of(a));
    vec4 e = exp(a - higher);
    sum = sum * (top == higher ? 1.0 : exp(top - higher)) + ((e.x + e.y) + (e.z + e.w));
    top = higher;
}

// The place of edge element t of the row; outside it where there is none.
uint edge(uint t) {
    uint head = min(4u * first4, base + p.V) - base;
    return t < head ? t : max(4u * (first4 + count4), base + head) - base + (t - head);
}

void scan(uint t) {
    uint i = begin;
    if (p.softcap == 0.0) {
        for (; i + 3u * STRETCH_STEP < end; i += 4u * STRETCH_STEP) {
            uint at = first4 + i;
            enter(plain(LOAD4(at)), plain(LOAD4(at + STRETCH_STEP)), plain(LOAD4(at + 2u * STRETCH_STEP)),
                  plain(LOAD4(at + 3u * STRETCH_STEP)));
        }
        for (; i < end; i += STRETCH_STEP) enter(plain(LOAD4(first4 + i)));
    } else {
        for (; i + 3u * STRETCH_STEP < end; i += 4u * STRETCH_STEP) {
            uint at = first4 + i;
            enter(capped(LOAD4(at)), capped(LOAD4(at + STRETCH_STEP)), capped(LOAD4(at + 2u * STRETCH_STEP)),
                  capped(LOAD4(at + 3u * STRETCH_STEP)));
        }
        for (; i < end; i += STRETCH_STEP) enter(capped(LOAD4(first4 + i)));
    }
    uint j = edge(t);
    if (t < EDGES && j < p.V) {
        vec4 v = vec4(x[base + j]);
        vec4 z = p.softcap == 0.0 ? plain(v) : capped(v);
        enter(vec4(z.x, vec3(LOWEST)));
    }
}

vec4 gradient(vec4 v, float all, float scale, vec4 hot) {
    return exp_zero(max(v, vec4(LOWEST)) - all) * scale - hot;
}

vec4 capped_gradient(vec4 v, float all, float scale, vec4 hot) {
    vec4 e = cap_exp(v), d = 1.0 + e;
    return gradient(cap_of(v, e), all, scale, hot) * (4.0 * e / (d * d));
}

// Element `label` of the row has a one taken off.
void write_gradient(uint t, float all, float scale, uint label) {
    uint hot4 = (base + label) / 4u - first4;
    vec4 hot = vec4(equal(uvec4(0u, 1u, 2u, 3u), uvec4((base + label) % 4u)));
    if (p.softcap == 0.0) {
        for (uint i = begin; i < end; i += STRETCH_STEP)
            x4[first4 + i] = gradient(LOAD4(first4 + i), all, scale, i == hot4 ? hot : vec4(0.0));
    } else {
        for (uint i = begin; i < end; i += STRETCH_STEP)
            x4[first4 + i] = capped_gradient(LOAD4(first4 + i), all, scale, i == hot4 ? hot : vec4(0.0));
    }
    uint j = edge(t);
    if (t < EDGES && j < p.V) {
        vec4 v = vec4(x[base + j]), one = vec4(j == label ? 1.0 : 0.0);
        vec4 d = p.softcap == 0.0 ? gradient(v, all, scale, one) : capped_gradient(v, all, scale, one);
        x[base + j] = d.x;
    }
}

void fill(uint t, float value) {
    for (uint i = begin; i < end; i += STRETCH_STEP) x4[first4 + i] = vec4(value);
    uint j = edge(t);
    if (t < EDGES && j < p.V) x[base + j] = value;
}

void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x, label = labels[row];
    base = row * p.V;
    first4 = (base + 3u) / 4u;
    count4 = (base + p.V) / 4u - min(first4, (base + p.V) / 4u);
    uint items = (count4 + WG - 1u) / WG;
    begin = stretch_begin(t, items);
    end = min(stretch_end(t, items), count4);
    if (label == IGNORED) {
        if (t == 0u) loss[row] = 0.0;
        if (GRAD != 0u) fill(t, 0.0);
        return;
    }
    vec4 own = vec4(x[base + min(label, p.V - 1u)]);
    scan(t);
    float all = uintBitsToFloat(order_bits(wg_max(order_key(floatBitsToUint(top), 0u))));
    bool broken = wg_max(max(largest > 0xff800000u ? 1u : 0u, highest >= 0x7f800000 ? 1u : 0u)) != 0u;
    broken = broken || all == LOWEST || label >= p.V;
    sum = wg_sum(top == all ? sum : sum * exp_zero(top - all));
    if (t == 0u) {
        float z = p.softcap == 0.0 ? own.x : cap_of(own, cap_exp(own)).x;
        loss[row] = broken ? uintBitsToFloat(0x7fc00000u) : (all - z) + log_pos(sum);
    }
    if (GRAD == 0u) return;
    if (broken) fill(t, uintBitsToFloat(0x7fc00000u));
    else write_gradient(t, all, 1.0 / sum, label);
}
