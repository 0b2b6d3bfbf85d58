// One weight type read 16 bytes at a time by independent threads: unit u of a row, Q_UNIT weights, so that neighbouring
// threads read neighbouring pieces. Loading (q_load) and unpacking are apart: a thread has the loads of several rows under
// way before it needs the first. Needs the binding `w` as uint, uvec2 (w2) and uvec4 (w4), and the define QTYPE.
#include "include/quant_types.glsl"

#if QTYPE == F32
#define Q_UNIT 4u
#elif Q_FLOAT
#define Q_UNIT 8u
#elif QTYPE == Q8_0
#define Q_UNIT 16u
#else
#define Q_UNIT 32u
#endif

struct QRaw {
    uvec4 q;         // floats, bytes or nibbles: a plane's 16 bytes
    uvec2 q2;        // two-bit fields
    uint qh;         // one-bit fields
    uint s, d;       // the words in which the unit's scale, and that of its group of 256, are
};

uint q_units(uint k) { return (k + Q_UNIT - 1u) / Q_UNIT; }

// row: first 16-byte piece of the row; nb: its sub-blocks of 32; u: below q_units.
QRaw q_load(uint row, uint nb, uint u) {
    QRaw r;
#if Q_FLOAT || QTYPE == Q8_0 || Q_HAS_NIBBLES
    r.q = w4[row + u];
#endif
#if !Q_FLOAT
    uint b = u * Q_UNIT >> 5, scales = row * 4u + (q_scales_at(nb) >> 2);
#if Q_HAS_Q2
    r.q2 = w2[row * 2u + (q_q2_at(nb) >> 3) + b];
#endif
#if Q_HAS_QH
    r.qh = w[row * 4u + (q_qh_at(nb) >> 2) + b];
#endif
#if !Q_SUPER && Q_MIN
    r.s = w[scales + b];
#elif QTYPE == IQ4_XS
    r.s = w[scales + (b >> 2)];
#else
    r.s = w[scales + (b >> 1)];
#endif
#if Q_SUPER
    r.d = w[row * 4u + (q_super_at(nb) >> 2) + (b >> (Q_MIN ? 3u : 4u))];
#endif
#endif
    return r;
}

#if Q_FLOAT

// Weights 4i..4i+3 of the unit, i below Q_UNIT / 4.
vec4 q_floats(QRaw r, uint i) {
#if QTYPE == F32
    return uintBitsToFloat(r.q);
#else
    uvec2 v = i == 0u ? r.q.xy : r.q.zw;
#if QTYPE == F16
    return vec4(unpackHalf2x16(v.x), unpackHalf2x16(v.y));
#else
    return uintBitsToFloat(uvec4(v.x << 16, v.x & 0xffff0000u, v.y << 16, v.y & 0xffff0000u));
#endif
#endif
}

#else

#define Q_SIGNED (QTYPE == Q8_0)                 // bytes are two's complement: no bias to take off
#define Q_BIASED (!Q_SIGNED && !Q_LEVELS && !Q_MIN)

// Four stored bytes: weights 4i..4i+3 of the unit, i in 0..3.
uint q_low(QRaw r, uint i) {
#if QTYPE == Q8_0
    return r.q[i];
#else
    uint v = 0u;
#if Q_HAS_NIBBLES
    v = r.q[i] & 0x0f0f0f0fu;
#endif
#if Q_HAS_Q2
    v |= ((r.q2[i & 1u] >> (2u * (i >> 1))) & 0x03030303u) << (QTYPE == Q6_K ? 4u : 0u);
#endif
#if Q_HAS_QH
    v |= ((r.qh >> i) & 0x01010101u) << (QTYPE == Q3_K ? 2u : 4u);
#endif
    return v;
#endif
}

// Weights 16+4i..16+4i+3; not for q8_0, whose units have sixteen.
uint q_high(QRaw r, uint i) {
    uint v = 0u;
#if Q_HAS_NIBBLES
    v = (r.q[i] >> 4) & 0x0f0f0f0fu;
#endif
#if Q_HAS_Q2
    v |= ((r.q2[i & 1u] >> (4u + 2u * (i >> 1))) & 0x03030303u) << (QTYPE == Q6_K ? 4u : 0u);
#endif
#if Q_HAS_QH
    v |= ((r.qh >> (4u + i)) & 0x01010101u) << (QTYPE == Q3_K ? 2u : 4u);
#endif
    return v;
}

float q_half_of(uint word, uint i) { return unpackHalf2x16(word >> (16u * (i & 1u))).x; }

float q_signed(uint word, uint i) { return float(bitfieldExtract(int(word), int(8u * i), 8)); }

// weight = scale * (stored - bias) + minimum, x for the low sixteen and y for the high; minimum only with Q_MIN.
void q_scales(QRaw r, uint u, out vec2 scale, out vec2 minimum) {
    uint b = u * Q_UNIT >> 5;
    minimum = vec2(0.0);
#if !Q_SUPER && Q_MIN
    vec2 dm = unpackHalf2x16(r.s);
    scale = vec2(dm.x);
    minimum = vec2(dm.y);
#elif !Q_SUPER
    scale = vec2(q_half_of(r.s, b));
#elif QTYPE == IQ4_XS
    scale = vec2(q_half_of(r.d, b >> 3) * q_signed(r.s, b & 3u));
#else
    uint s = r.s >> (16u * (b & 1u));
#if QTYPE == Q2_K
    vec2 dm = unpackHalf2x16(r.d);
    scale = dm.x * vec2(float(s & 15u), float((s >> 8) & 15u));
    minimum = -dm.y * vec2(float((s >> 4) & 15u), float((s >> 12) & 15u));
#elif Q_MIN
    vec2 dm = unpackHalf2x16(r.d);
    scale = vec2(dm.x * float(s & 0xffu));
    minimum = vec2(-dm.y * float((s >> 8) & 0xffu));
#else
    scale = q_half_of(r.d, b >> 3) * vec2(q_signed(s, 0u), q_signed(s, 1u));
#endif
#endif
}

#if Q_LEVELS
shared uint q_levels[16];

// Every invocation of the workgroup calls this first, then a barrier.
void q_fill_levels() {
    for (uint i = gl_LocalInvocationID.x; i < 16u; i += gl_WorkGroupSize.x) q_levels[i] = uint(int(q_level(i)));
}
#endif

#endif
