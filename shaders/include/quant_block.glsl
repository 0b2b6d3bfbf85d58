// One sub-block of 32 weights of a row, read by a lane on its own and made floats. Beside quant_rows.glsl, which reads
// whole rows: here every lane has another row, and the next step is the same sub-block of further rows.
// Needs what quant_rows.glsl needs.
#include "include/quant_rows.glsl"

#if Q_FLOAT
// Weights 4g..4g+3 of sub-block b; past the row's end others of it.
vec4 q_floats(uint row, uint k, uint b, uint g) {
    uint last = (q_stride(k) >> 4) - 1u;
#if QTYPE == F32
    return uintBitsToFloat(q_load16(row + min(b * 8u + g, last)));
#else
    uvec2 h = q_load8(row * 2u + min(b * 8u + g, last * 2u + 1u));
#if QTYPE == F16
    return vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
#else
    return uintBitsToFloat(uvec4(h.x << 16, h.x & 0xffff0000u, h.y << 16, h.y & 0xffff0000u));
#endif
#endif
}
#endif

struct QBlock {
    QPart part;
    vec4 factors;                    // scale and offset of weights 0-15, of weights 16-31
};

// row: start of the row in 16-byte units.
QBlock q_block(uint row, uint k, uint b) {
    uint nb = q_blocks(k);
    QBlock r;
#if Q_FLOAT
    r.part = q_part(row, k, b);
    r.factors = vec4(1.0, 0.0, 1.0, 0.0);
#else
#if QTYPE == Q8_0
    r.part.qs[0] = q_load16(row + b * 2u);
    r.part.qs[1] = q_load16(row + b * 2u + 1u);
#elif Q_HAS_NIBBLES
    r.part.qs[0] = q_load16(row + b);
#endif
#if Q_HAS_QH
    r.part.qh.x = q_load4(row * 4u + (q_qh_at(nb) >> 2) + b);
#endif
#if Q_HAS_Q2
    r.part.q2.xy = q_load8(row * 2u + (q_q2_at(nb) >> 3) + b);
#endif
    QScales s;
#if !Q_SUPER && Q_MIN
    r.part.dm.x = q_load4(row * 4u + (q_scales_at(nb) >> 2) + b);
#elif QTYPE == IQ4_XS
    s.word.x = (q_load4(row * 4u + (q_scales_at(nb) >> 2) + (b >> 2)) >> (8u * (b & 3u))) & 0xffu;
#else
    s.word.x = q_load4(row * 4u + (q_scales_at(nb) >> 2) + (b >> 1)) >> (16u * (b & 1u));
#endif
#if Q_SUPER
    s.super = q_super(row, nb, b);
#endif
    r.factors = q_factors(s, r.part);
#endif
    return r;
}

// Weights 4g..4g+3.
vec4 q_four(QBlock block, uint g, QTable table) {
    vec4 stored = q_group(block.part, g, table);
#if Q_FLOAT
    return stored;
#else
    vec2 f = g < 4u ? block.factors.xy : block.factors.zw;
    return stored * (f.x / q_unit(g >= 4u)) + f.y;
#endif
}
