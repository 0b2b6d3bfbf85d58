// One weight type read by independent threads: eight weights of a sub-block of 32 at a time.
// Needs the binding `w` as uint and the define QTYPE, and with the define Q_WIDE also as `w2` (uvec2) and `w4` (uvec4).
// The CPU-shaped matmul reads whole planes: quant_rows.glsl.
#include "include/quant_types.glsl"

// Weights 4i..4i+3 (low) and 16+4i..16+4i+3 (high) of a sub-block, i in 0..3:
// weight = scale * (stored - Q_BIAS) + minimum, which is exact up to the last addition.
struct QEight {
    vec4 low, high;                  // stored values
    vec2 scale, minimum;             // of the low and the high four
};

#ifdef Q_WIDE
#define Q_TWO(at) w2[(at) >> 1]
#define Q_FOUR(at) w4[(at) >> 2]
#else
#define Q_TWO(at) uvec2(w[at], w[(at) + 1u])
#define Q_FOUR(at) uvec4(w[at], w[(at) + 1u], w[(at) + 2u], w[(at) + 3u])
#endif

uint q_half_word(uint at16) {        // 16 bits, `at16` counted in halves of words
    return (w[at16 >> 1] >> (16u * (at16 & 1u))) & 0xffffu;
}

float q_signed_byte(uint v, uint i) { return float(int(v << (24u - 8u * i)) >> 24); }

vec4 q_stored(uint word) {
#if Q_LEVELS
    return vec4(q_level(word & 15u), q_level((word >> 8) & 15u), q_level((word >> 16) & 15u), q_level(word >> 24));
#else
    return q_bytes(word);
#endif
}

// row: first word of the row; k: weights in a row; b: sub-block; i: which quarter. Of a last sub-block that is not full
// (floats only), what lies past the row's end is not read: those values are some others of the row.
QEight q_read(uint row, uint k, uint b, uint i) {
    uint nb = q_blocks(k);
    QEight r;
    r.scale = vec2(1.0);
    r.minimum = vec2(0.0);
#if QTYPE == F32
    uint last = (q_stride(k) >> 2) - 4u, at = row + min(b * 32u + i * 4u, last);
    r.low = uintBitsToFloat(Q_FOUR(at));
    at = row + min(b * 32u + 16u + i * 4u, last);
    r.high = uintBitsToFloat(Q_FOUR(at));
#elif Q_FLOAT
    uint last = (q_stride(k) >> 2) - 2u, at = row + min(b * 16u + i * 2u, last);
    uvec2 l = Q_TWO(at);
    at = row + min(b * 16u + 8u + i * 2u, last);
    uvec2 h = Q_TWO(at);
#if QTYPE == F16
    r.low = vec4(unpackHalf2x16(l.x), unpackHalf2x16(l.y));
    r.high = vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
#else
    r.low = uintBitsToFloat(uvec4(l.x << 16, l.x & 0xffff0000u, l.y << 16, l.y & 0xffff0000u));
    r.high = uintBitsToFloat(uvec4(h.x << 16, h.x & 0xffff0000u, h.y << 16, h.y & 0xffff0000u));
#endif
#else
    uint low = 0u, high = 0u;
#if QTYPE == Q8_0
    low = w[row + b * 8u + i] ^ 0x80808080u;
    high = w[row + b * 8u + 4u + i] ^ 0x80808080u;
#elif Q_HAS_NIBBLES
    uint nibbles = w[row + b * 4u + i];
    low = nibbles & 0x0f0f0f0fu;
    high = (nibbles >> 4) & 0x0f0f0f0fu;
#endif
#if Q_HAS_Q2
    uint pairs = w[row + (q_q2_at(nb) >> 2) + b * 2u + (i & 1u)] >> (2u * (i >> 1));
    const uint at2 = QTYPE == Q6_K ? 4u : 0u;
    low |= (pairs & 0x03030303u) << at2;
    high |= ((pairs >> 4) & 0x03030303u) << at2;
#endif
#if Q_HAS_QH
    uint bits = w[row + (q_qh_at(nb) >> 2) + b] >> i;
    const uint at1 = QTYPE == Q3_K ? 2u : 4u;
    low |= (bits & 0x01010101u) << at1;
    high |= ((bits >> 4) & 0x01010101u) << at1;
#endif
    r.low = q_stored(low);
    r.high = q_stored(high);

    uint scales = row + (q_scales_at(nb) >> 2);
#if !Q_SUPER && Q_MIN
    vec2 dm = unpackHalf2x16(w[scales + b]);
    r.scale = vec2(dm.x);
    r.minimum = vec2(dm.y);
#elif !Q_SUPER
    r.scale = vec2(unpackHalf2x16(q_half_word(scales * 2u + b)).x);
#else
    uint super = row + (q_super_at(nb) >> 2);
#if Q_MIN
    vec2 dm = unpackHalf2x16(w[super + (b >> 3)]);
#else
    float d = unpackHalf2x16(q_half_word(super * 2u + (b >> 3))).x;
#endif
#if QTYPE == IQ4_XS
    r.scale = vec2(d * q_signed_byte(w[scales + (b >> 2)], b & 3u));
#else
    uint s = q_half_word(scales * 2u + b);
#if QTYPE == Q2_K
    r.scale = dm.x * vec2(float(s & 15u), float((s >> 8) & 15u));
    r.minimum = -dm.y * vec2(float((s >> 4) & 15u), float(s >> 12));
#elif Q_MIN
    r.scale = vec2(dm.x * float(s & 0xffu));
    r.minimum = vec2(-dm.y * float(s >> 8));
#else
    r.scale = d * vec2(q_signed_byte(s, 0u), q_signed_byte(s, 1u));
#endif
#endif
#endif
#endif
    return r;
}

// The weights themselves, equal to the last bit to the format's own definition.
void q_weights(QEight r, out vec4 low, out vec4 high) {
#if Q_FLOAT
    low = r.low;
    high = r.high;
#else
    precise vec4 l = r.scale.x * (r.low - Q_BIAS);
    precise vec4 h = r.scale.y * (r.high - Q_BIAS);
#if Q_MIN
    l = l + r.minimum.x;
    h = h + r.minimum.y;
#endif
    low = l;
    high = h;
#endif
}
