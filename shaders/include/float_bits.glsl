// Exact conversions between number formats on their bits alone: no driver's rounding, flushing or NaN habits enter.
// All roundings go to the nearest value, ties to even.

const uint F32_INF = 0x7f800000u;

uint f16_to_f32(uint h) {
    uint sign = (h & 0x8000u) << 16u;
    uint e = (h >> 10u) & 31u;
    uint m = h & 0x3ffu;
    uint normal = ((e + 112u) << 23u) | (m << 13u);
    uint small = floatBitsToUint(float(m) * 5.9604644775390625e-08);  // subnormal: m times 2^-24, exact
    uint special = F32_INF | (m << 13u);
    return sign | (e == 0u ? small : e == 31u ? special : normal);
}

uint f32_to_f16(uint f) {
    uint sign = (f >> 16u) & 0x8000u;
    uint a = f & 0x7fffffffu;
    uint normal = a - 0x38000000u;
    normal = (normal + 0xfffu + ((normal >> 13u) & 1u)) >> 13u;
    uint drop = clamp(126u - min(a >> 23u, 126u), 1u, 25u);           // subnormal: bits of the mantissa that go
    uint m = (a & 0x7fffffu) | 0x800000u;
    uint small = (m + (1u << (drop - 1u)) - 1u + ((m >> drop) & 1u)) >> drop;
    small = a < 0x33000000u ? 0u : small;                              // below 2^-25
    uint nan = 0x7c00u | max((a & 0x7fffffu) >> 13u, 1u);
    uint h = a > F32_INF ? nan : a >= 0x477ff000u ? 0x7c00u : a >= 0x38800000u ? normal : small;
    return sign | h;
}

uint f32_to_bf16(uint f) {
    uint rounded = (f + 0x7fffu + ((f >> 16u) & 1u)) >> 16u;
    return (f & 0x7fffffffu) > F32_INF ? (f >> 16u) | 0x40u : rounded;
}

// An unsigned integer to a float of `bits` mantissa bits (24 for f32, 8 for bf16), as f32 bits.
uint u32_to_float(uint u, uint bits) {
    uint top = uint(max(findMSB(u), 0));
    uint keep = bits - 1u;
    uint drop = top > keep ? top - keep : 0u;
    uint half_less_one = drop > 0u ? (1u << (drop - 1u)) - 1u : 0u;
    uint odd = drop > 0u ? (u >> drop) & 1u : 0u;
    uint m = (u >> drop) + ((u & ((1u << drop) - 1u)) + half_less_one + odd >> drop);
    return u == 0u ? 0u : floatBitsToUint(float(m)) + (drop << 23u);  // m has at most 24 bits: exact
}

// A float's bits to an unsigned integer: towards zero, saturating; NaN and negative numbers give 0.
uint float_to_u32(uint f) {
    uint e = f >> 23u;
    uint m = (f & 0x7fffffu) | 0x800000u;
    uint whole = e >= 150u ? m << min(e - 150u, 31u) : m >> min(150u - e, 31u);
    whole = e >= 159u ? 0xffffffffu : whole;
    bool zero = f >= 0x80000000u || f > F32_INF || e < 127u;
    return zero ? 0u : whole;
}
