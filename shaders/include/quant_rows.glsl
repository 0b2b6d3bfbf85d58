// One weight type read by lanes that each walk a row of their own, 16 bytes a load: whole sub-blocks of 32 weights,
// scales for 256. The weights are a texel buffer, because llvmpipe gathers texels without a branch, where every lane's
// load from a storage buffer is a branch and a few dozen scalar instructions.
// Needs `w_texels` (usamplerBuffer), LANES, and the define QTYPE.
#include "include/quant_types.glsl"

#if QTYPE == F32
#define Q_STEP 1u                    // sub-blocks loaded at once into a QPart
#define Q_WORDS 8
#elif Q_FLOAT
#define Q_STEP 1u
#define Q_WORDS 4
#elif QTYPE == Q8_0
#define Q_STEP 2u
#define Q_WORDS 4
#elif QTYPE == Q2_K || QTYPE == Q3_K
#define Q_STEP 2u
#define Q_WORDS 1
#else
#define Q_STEP 2u
#define Q_WORDS 2
#endif

// Stored values come out of their words times a power of two, which saves shifts: nibbles and bytes stay where they
// are. The caller takes the factor out of the activations instead, which is exact. `upper`: weights 16-31.
#define Q_PLAIN (QTYPE == Q4_0 || QTYPE == Q4_1 || QTYPE == Q4_K)

vec4 q_unit(bool upper) {
#if Q_FLOAT || Q_LEVELS
    return vec4(1.0);
#elif Q_PLAIN
    return upper ? vec4(16.0, 4096.0, 1048576.0, 1.0) : vec4(1.0, 256.0, 65536.0, 16777216.0);
#else
    return vec4(1.0, 256.0, 65536.0, 1.0);
#endif
}

struct QPart {                       // the first of them is the current one; q_advance makes it the next
    uvec4 qs[Q_WORDS];
    uvec4 q2;
    uvec2 qh, dm;
};

struct QScales {
    uvec4 word;                      // 16 bits a sub-block; the current one's are the low ones of .x
    vec2 super;                      // d, minus dmin
};

// Eight lanes work together; where a subgroup has but four, each stands for two (its own number and four more).
// LANES, a specialization constant, says which; 0 leaves it to be found out, which costs a third of the speed.
bool eight_lanes() { return LANES == 0u ? gl_SubgroupSize >= 8u : LANES == 8u; }

uint lane_mask() { return eight_lanes() ? 7u : 3u; }

// Lane j's value, j in 0..7: `own` is what a lane holds, `other` what it holds for the lane four further on.
float from_lane(float own, float other, uint j) {
    uint first = gl_SubgroupInvocationID & ~lane_mask();
    if (eight_lanes()) return subgroupShuffle(own, first + j);
    return subgroupShuffle(j < 4u ? own : other, first + (j & 3u));
}

// The levels of iq4_nl and iq4_xs, two a lane: a look-up is a shuffle among eight lanes.
struct QTable {
    float low, high;
};

QTable q_table(uint lane) {
    QTable t;
#if Q_LEVELS
    t.low = q_level(lane);
    t.high = q_level(lane + 8u);
#endif
    return t;
}

float q_look(uint i, QTable t) {
    if (!eight_lanes()) return q_level(i);
    uint from = (gl_SubgroupInvocationID & ~7u) + (i & 7u);
    float low = subgroupShuffle(t.low, from), high = subgroupShuffle(t.high, from);
    return (i & 8u) == 0u ? low : high;
}

vec4 q_lookup(uint v, QTable t) {
    return vec4(q_look(v & 15u, t), q_look((v >> 8) & 15u, t), q_look((v >> 16) & 15u, t), q_look(v >> 24, t));
}

uvec4 q_load16(uint at) { return texelFetch(w_texels, int(at)); }

uvec2 q_load8(uint at) {
    uvec4 v = texelFetch(w_texels, int(at >> 1));
    return (at & 1u) == 0u ? v.xy : v.zw;
}

uint q_load4(uint at) {
    uvec2 v = q_load8(at >> 1);
    return (at & 1u) == 0u ? v.x : v.y;
}

// row: start of the row in 16-byte units; b: first sub-block, a multiple of Q_STEP. Past the last sub-block (an odd
// count) or the end of a row of floats it takes anything else of the row: scales there are zero, and the caller makes the
// activations zero.
QPart q_part(uint row, uint k, uint b) {
    uint nb = q_blocks(k);
    QPart r;
#if Q_FLOAT
    uint last = (q_stride(k) >> 4) - 1u;
    [[unroll]] for (uint j = 0u; j < Q_WORDS; j++) r.qs[j] = q_load16(row + min(b * Q_WORDS + j, last));
#elif QTYPE == Q8_0
    [[unroll]] for (uint j = 0u; j < Q_WORDS; j++) r.qs[j] = q_load16(row + min(b * 2u + j, nb * 2u));
#elif Q_HAS_NIBBLES
    r.qs[0] = q_load16(row + b);
    r.qs[1] = q_load16(row + b + 1u);
#endif
#if Q_HAS_QH
    r.qh = q_load8(row * 2u + (q_qh_at(nb) >> 3) + (b >> 1));
#endif
#if Q_HAS_Q2
    r.q2 = q_load16(row + (q_q2_at(nb) >> 4) + (b >> 1));
#endif
#if !Q_SUPER && Q_MIN
    r.dm = q_load8(row * 2u + (q_scales_at(nb) >> 3) + (b >> 1));
#endif
    return r;
}

#if Q_SUPER
// The scale and minus the minimum of the 256 weights that sub-block b is of.
vec2 q_super(uint row, uint nb, uint b) {
#if Q_MIN
    return unpackHalf2x16(q_load4(row * 4u + (q_super_at(nb) >> 2) + (b >> 3))) * vec2(1.0, -1.0);
#else
    vec2 pair = unpackHalf2x16(q_load4(row * 4u + (q_super_at(nb) >> 2) + (b >> 4)));
    return vec2((b & 8u) == 0u ? pair.x : pair.y, 0.0);
#endif
}
#endif

// Scales of sub-blocks b..b+7, b a multiple of 8.
QScales q_scales(uint row, uint nb, uint b) {
    QScales r;
#if QTYPE == IQ4_XS
    uvec2 v = q_load8(row * 2u + (q_scales_at(nb) >> 3) + (b >> 3));
    r.word = uvec4(v.x, v.x >> 16, v.y, v.y >> 16);
    r.word = (r.word & 0xffu) | ((r.word & 0xff00u) << 8);
#elif !Q_FLOAT && (Q_SUPER || !Q_MIN)
    r.word = q_load16(row + (q_scales_at(nb) >> 4) + (b >> 3));
#endif
#if Q_SUPER
    r.super = q_super(row, nb, b);
#endif
    return r;
}

float q_signed_byte(uint v, uint i) { return float(int(v << (24u - 8u * i)) >> 24); }

void q_advance(inout QPart part, inout QScales scales) {
#if !Q_FLOAT
    [[unroll]] for (uint j = 0u; j < Q_WORDS / 2; j++) part.qs[j] = part.qs[j + Q_WORDS / 2];
    part.qh.x = part.qh.y;
    part.q2.xy = part.q2.zw;
    part.dm.x = part.dm.y;
    scales.word.x >>= 16;
#endif
}

// (scale, offset) of weights 0-15 and of weights 16-31 of the current sub-block: weight = scale * stored + offset.
vec4 q_factors(QScales s, QPart part) {
#if Q_FLOAT
    return vec4(1.0, 0.0, 1.0, 0.0);
#else
    vec2 low, high;
#if !Q_SUPER && Q_MIN
    low = high = unpackHalf2x16(part.dm.x);
#elif !Q_SUPER
    float d = unpackHalf2x16(s.word.x).x;
    low = high = vec2(d, -Q_BIAS * d);
#else
    uint v = s.word.x;
#if QTYPE == Q2_K
    low = s.super * vec2(float(int(v & 15u)), float(int((v >> 4) & 15u)));
    high = s.super * vec2(float(int((v >> 8) & 15u)), float(int((v >> 12) & 15u)));
#elif Q_MIN
    low = high = s.super * vec2(float(int(v & 0xffu)), float(int((v >> 8) & 0xffu)));
#else
    low.x = s.super.x * q_signed_byte(v, 0u);
    high.x = QTYPE == IQ4_XS ? low.x : s.super.x * q_signed_byte(v, 1u);
    low.y = -Q_BIAS * low.x;
    high.y = -Q_BIAS * high.x;
#endif
#endif
    return vec4(low, high);
#endif
}

// Stored values 4g..4g+3 of the current sub-block, times q_unit(g >= 4).
vec4 q_group(QPart part, uint g, QTable table) {
#if QTYPE == F32
    return uintBitsToFloat(part.qs[g]);
#elif QTYPE == F16
    uvec4 v = part.qs[g >> 1];
    return (g & 1u) == 0u ? vec4(unpackHalf2x16(v.x), unpackHalf2x16(v.y)) : vec4(unpackHalf2x16(v.z), unpackHalf2x16(v.w));
#elif QTYPE == BF16
    uvec4 v = part.qs[g >> 1];
    uvec2 h = (g & 1u) == 0u ? v.xy : v.zw;
    return uintBitsToFloat(uvec4(h.x << 16, h.x & 0xffff0000u, h.y << 16, h.y & 0xffff0000u));
#elif Q_PLAIN
    uint v = part.qs[0][g & 3u];
    uvec4 masks = g < 4u ? uvec4(0xfu, 0xf00u, 0xf0000u, 0xf000000u) : uvec4(0xf0u, 0xf000u, 0xf00000u, 0xf0000000u);
    uvec4 fields = uvec4(v) & masks;
    return vec4(ivec4(fields.xyz, g < 4u ? fields.w : v >> 28));
#else
    uint v = 0u;
#if QTYPE == Q8_0
    v = (g < 4u ? part.qs[0] : part.qs[1])[g & 3u] ^ 0x80808080u;
#elif Q_HAS_NIBBLES
    v = (part.qs[0][g & 3u] >> (g & 4u)) & 0x0f0f0f0fu;
#endif
#if Q_HAS_Q2
    v |= ((part.q2[g & 1u] >> (g & 6u)) & 0x03030303u) << (QTYPE == Q6_K ? 4u : 0u);
#endif
#if Q_HAS_QH
    v |= ((part.qh.x >> g) & 0x01010101u) << (QTYPE == Q3_K ? 2u : 4u);
#endif
#if Q_LEVELS
    return q_lookup(v, table);
#else
    return vec4(ivec4(v & 0xffu, v & 0xff00u, v & 0xff0000u, v >> 24));
#endif
#endif
}
