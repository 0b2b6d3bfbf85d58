#version 450
#include "softmax.contract.glsl"
#include "include/reduce.glsl"
#include "include/order.glsl"
#include "include/math.glsl"

const float LOWEST = -3.4028235e38;

// Online softmax, one workgroup a row: every invocation keeps a running maximum and sum of its own elements; they are
// joined in the workgroup's fixed order. A row of -Inf alone gives zeros; a NaN or +Inf anywhere gives a row of NaN.
// The lowest finite float counts as -Inf.
void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    bool wide = p.D % 4u == 0u;
    uint n = wide ? p.D / 4u : p.D, base = row * n;
    float top = LOWEST, sum = 0.0;
    uint special = 0u;  // largest magnitude seen, as bits: above 0x7f800000 for NaN
    if (wide) {
        for (uint i = t; i < n; i += WG) {
            uvec4 bits = x4[base + i];
            uvec4 size = bits & 0x7fffffffu;
            size = mix(size, uvec4(0u), equal(bits, uvec4(0xff800000u)));
            special = max(special, max(max(size.x, size.y), max(size.z, size.w)));
            vec4 v = clamp(uintBitsToFloat(bits) * p.scale, vec4(LOWEST), vec4(-LOWEST));
            float higher = max(top, max(max(v.x, v.y), max(v.z, v.w)));
            vec4 e = exp_zero(v - higher);
            sum = sum * exp_zero(top - higher) + ((e.x + e.y) + (e.z + e.w));
            top = higher;
        }
    } else {
        for (uint i = t; i < n; i += WG) {
            uint bits = x[base + i];
            special = max(special, bits == 0xff800000u ? 0u : bits & 0x7fffffffu);
            float v = clamp(uintBitsToFloat(bits) * p.scale, LOWEST, -LOWEST);
            float higher = max(top, v);
            sum = sum * exp_zero(top - higher) + exp_zero(v - higher);
            top = higher;
        }
    }
    float all = uintBitsToFloat(order_bits(wg_max(order_key(floatBitsToUint(top), 0u))));
    bool broken = wg_max(special) >= 0x7f800000u;
    sum = wg_sum(sum * exp_zero(top - all));
    float scale = broken ? uintBitsToFloat(0x7fc00000u) : all == LOWEST ? 0.0 : 1.0 / sum;
    if (wide) {
        for (uint i = t; i < n; i += WG) {
            vec4 v = clamp(uintBitsToFloat(x4[base + i]) * p.scale, vec4(LOWEST), vec4(-LOWEST));
            y4[base + i] = exp_zero(v - all) * scale;
        }
    } else {
        for (uint i = t; i < n; i += WG) {
            float v = clamp(uintBitsToFloat(x[base + i]) * p.scale, LOWEST, -LOWEST);
            y[base + i] = exp_zero(v - all) * scale;
        }
    }
}
