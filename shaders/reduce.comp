#version 450
#include "reduce.contract.glsl"
#include "include/reduce.glsl"
#include "include/order.glsl"

// OP 0: sum, 1: maximum, 2: minimum of each row. Maxima are taken of ordered integer keys, where NaN wins as in NumPy;
// the minimum is the maximum of the reversed keys.
uint key_of(uint bits) { return OP == 1u ? order_key(bits, 0xffffffffu) : ~order_key(bits, 0u); }

void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    vec4 sums = vec4(0.0);
    uvec4 tops = uvec4(OP == 1u ? KEY_NEG_INF : ~KEY_POS_INF);
    if (p.D % 4u == 0u) {
        uint n = p.D / 4u, base = row * n;
        for (uint i = t; i < n; i += WG) {
            uvec4 v = x4[base + i];
            if (OP == 0u) sums += uintBitsToFloat(v);
            else tops = max(tops, uvec4(key_of(v.x), key_of(v.y), key_of(v.z), key_of(v.w)));
        }
    } else {
        uint base = row * p.D;
        for (uint i = t; i < p.D; i += WG) {
            if (OP == 0u) sums.x += uintBitsToFloat(x[base + i]);
            else tops.x = max(tops.x, key_of(x[base + i]));
        }
    }
    float result;
    if (OP == 0u) {
        result = wg_sum((sums.x + sums.y) + (sums.z + sums.w));
    } else {
        uint top = wg_max(max(max(tops.x, tops.y), max(tops.z, tops.w)));
        result = uintBitsToFloat(order_bits(OP == 1u ? top : ~top));
    }
    if (t == 0u) y[row] = result;
}
