// Float32 rows into a block format: a thread takes a sub-block of 32 weights, sixteen neighbours two groups of 256.
// Scales narrower than a word are put together in shared memory, so that each word of y has one writer.
#version 450
#include "quantize.contract.glsl"
#include "include/quant_types.glsl"
#include "include/quant_fit.glsl"

shared float of_scale[WG];
shared uint word[WG];

uint row;                            // first word of the row in y
uint nb, b;                          // sub-blocks of the row; the thread's own
bool alive;                          // there is such a sub-block
float v[32];

// 16 bits a sub-block, written in pairs by the even one; every thread must come here.
void write_halves(uint plane, uint bits) {
    word[gl_LocalInvocationID.x] = alive ? bits : 0u;
    barrier();
    if (alive && (b & 1u) == 0u) y[row + (plane >> 2) + (b >> 1)] = bits | (word[gl_LocalInvocationID.x + 1u] << 16);
}

// Zeros up to the end of a plane of `words` words, which its padding holds.
void pad(uint plane, uint words) {
    if (alive && b + 1u == nb)
        for (uint i = words; i < Q_A16(words * 4u) >> 2; i++) y[row + (plane >> 2) + i] = 0u;
}

uint pack4(uint a, uint b, uint c, uint d) { return a | (b << 8) | (c << 16) | (d << 24); }

#if QTYPE == Q8_0
float round_away(float a) {          // half away from zero, as the format's definition has it
    float m = abs(a), whole = floor(m);
    return (whole + floor(2.0 * (m - whole))) * (a < 0.0 ? -1.0 : 1.0);
}

void quantize() {
    float most = 0.0;
    [[unroll]] for (uint i = 0u; i < 32u; i++) most = max(most, abs(v[i]));
    precise float d = most / 127.0, inverse = d == 0.0 ? 0.0 : 1.0 / d;
    if (alive)
        [[unroll]] for (uint j = 0u; j < 8u; j++) {
            uint q[4];
            [[unroll]] for (uint c = 0u; c < 4u; c++) {
                precise float scaled = v[j * 4u + c] * inverse;
                q[c] = uint(int(round_away(scaled))) & 0xffu;
            }
            y[row + b * 8u + j] = pack4(q[0], q[1], q[2], q[3]);
        }
    write_halves(q_scales_at(nb), half_bits(d));
    pad(q_scales_at(nb), (nb + 1u) >> 1);
}
#else

// Levels to the planes that hold them: four or two low bits, one high bit or two.
void write_levels(uint level[32]) {
#if Q_HAS_NIBBLES
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        uint at = 4u * j;
        uint low = pack4(level[at] & 15u, level[at + 1u] & 15u, level[at + 2u] & 15u, level[at + 3u] & 15u);
        at += 16u;
        uint high = pack4(level[at] & 15u, level[at + 1u] & 15u, level[at + 2u] & 15u, level[at + 3u] & 15u);
        y[row + b * 4u + j] = low | (high << 4);
    }
#endif
#if Q_HAS_Q2
    const uint at2 = QTYPE == Q6_K ? 4u : 0u;
    uint pairs[2] = uint[2](0u, 0u);
    [[unroll]] for (uint i = 0u; i < 32u; i++)
        pairs[(i >> 2) & 1u] |= ((level[i] >> at2) & 3u) << (8u * (i & 3u) + 2u * (i >> 3));
    y[row + (q_q2_at(nb) >> 2) + b * 2u] = pairs[0];
    y[row + (q_q2_at(nb) >> 2) + b * 2u + 1u] = pairs[1];
#endif
#if Q_HAS_QH
    const uint at1 = QTYPE == Q3_K ? 2u : 4u;
    uint bits = 0u;
    [[unroll]] for (uint i = 0u; i < 32u; i++) bits |= (level[i] >> at1) << (8u * (i & 3u) + (i >> 2));
    y[row + (q_qh_at(nb) >> 2) + b] = bits;
#endif
}
#endif

#if QTYPE == Q4_0 || QTYPE == Q5_0
void quantize() {
    float most = v[0];
    [[unroll]] for (uint i = 1u; i < 32u; i++) most = abs(v[i]) > abs(most) ? v[i] : most;
    precise float d = most / -Q_BIAS, inverse = d == 0.0 ? 0.0 : 1.0 / d;
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        precise float scaled = v[i] * inverse;
        precise float shifted = scaled + (Q_BIAS + 0.5);
        level[i] = uint(clamp(trunc(shifted), 0.0, 2.0 * Q_BIAS - 1.0));
    }
    if (alive) write_levels(level);
#if QTYPE == Q5_0
    pad(q_qh_at(nb), nb);
#endif
    write_halves(q_scales_at(nb), half_bits(d));
    pad(q_scales_at(nb), (nb + 1u) >> 1);
}
#endif

#if QTYPE == Q4_1 || QTYPE == Q5_1
void quantize() {
    const float top = QTYPE == Q4_1 ? 15.0 : 31.0;
    float low = v[0], high = v[0];
    [[unroll]] for (uint i = 1u; i < 32u; i++) {
        low = min(low, v[i]);
        high = max(high, v[i]);
    }
    precise float range = high - low;
    precise float d = range / top, inverse = d == 0.0 ? 0.0 : 1.0 / d;
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        precise float above = v[i] - low;
        precise float scaled = above * inverse;
        precise float shifted = scaled + 0.5;
        level[i] = uint(clamp(trunc(shifted), 0.0, top));
    }
    if (alive) {
        write_levels(level);
        y[row + (q_scales_at(nb) >> 2) + b] = half_bits(d) | (half_bits(low) << 16);
    }
#if QTYPE == Q5_1
    pad(q_qh_at(nb), nb);
#endif
    pad(q_scales_at(nb), nb);
}
#endif

#if Q_SUPER
// The value of largest magnitude among the eight threads of a group of 256.
float largest_of_eight(float own) {
    barrier();
    of_scale[gl_LocalInvocationID.x] = own;
    barrier();
    float most = 0.0;
    for (uint j = 0u; j < 8u; j++) {
        float other = of_scale[(gl_LocalInvocationID.x & ~7u) + j];
        most = abs(other) > abs(most) ? other : most;
    }
    return most;
}

// The weights that a scale serves: all 32 of a thread, or its first or last sixteen.
float[FIT_COUNT] part(uint first) {
    float x[FIT_COUNT];
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) x[i] = v[first + i];
    return x;
}
#endif

#if Q_SUPER && Q_MIN
// The stored scale and offset, eight or four bits each, and the levels that they give.
uint chosen(Affine f, float d, float m, uint first, inout uint level[32]) {
    float x[FIT_COUNT] = part(first);
    vec2 best = affine_stored(x, f, d, m);
    f = Affine(d * best.x, -m * best.y);
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) level[first + i] = uint(affine_level(x[i], f));
    return uint(best.x) | (uint(best.y) << (FIT_COUNT >> 2));
}

void quantize() {
    Affine f = affine_fit(part(0u));
    float scale = f.scale, low = f.low;
#if Q_HALVES
    Affine f1 = affine_fit(part(16u));
    scale = max(scale, f1.scale);
    low = min(low, f1.low);
#endif
    uint d_bits = half_bits(largest_of_eight(scale) / FIT_SCALES);
    uint m_bits = half_bits(largest_of_eight(low) / -FIT_SCALES);
    float d = half_value(d_bits), m = half_value(m_bits);
    uint level[32];
    uint stored = chosen(f, d, m, 0u, level);
#if Q_HALVES
    stored |= chosen(f1, d, m, 16u, level) << 8;
#endif
    if (alive) write_levels(level);
    write_halves(q_scales_at(nb), stored);
    if (alive && (b & 7u) == 0u) y[row + (q_super_at(nb) >> 2) + (b >> 3)] = d_bits | (m_bits << 16);
    pad(q_super_at(nb), nb >> 3);
}
#endif

#if Q_SUPER && !Q_MIN
void quantize() {
    vec2 scale = vec2(signed_fit(part(0u)), signed_fit(part(16u)));
    float most = largest_of_eight(abs(scale.y) > abs(scale.x) ? scale.y : scale.x);
    uint d_bits = half_bits(most / -FIT_SCALES);
    float d = half_value(d_bits);
    vec2 s = vec2(signed_stored(part(0u), scale.x, d), signed_stored(part(16u), scale.y, d));
    vec2 step = d * s, inverse = mix(1.0 / step, vec2(0.0), equal(step, vec2(0.0)));
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) level[i] = uint(int(signed_level(v[i], inverse[i >> 4]) - FIT_LOW));
    if (alive) write_levels(level);
    write_halves(q_scales_at(nb), (uint(int(s.x)) & 0xffu) | ((uint(int(s.y)) & 0xffu) << 8));
    barrier();
    word[gl_LocalInvocationID.x] = alive ? d_bits : 0u;
    barrier();
    if (alive && (b & 15u) == 0u)    // two groups of 256 share a word
        y[row + (q_super_at(nb) >> 2) + (b >> 4)] = d_bits | (word[gl_LocalInvocationID.x + 8u] << 16);
    pad(q_super_at(nb), (nb + 15u) >> 4);
}
#endif

void main() {
    nb = q_blocks(p.K);
    uint units = (nb + 15u) >> 4;        // of sixteen threads, in a row
    uint unit = ((gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x) >> 4;
    uint n = unit / units;
    b = (unit % units) * 16u + (gl_LocalInvocationID.x & 15u);
    alive = n < p.N && b < nb;
    row = n * (q_stride(p.K) >> 2);
    [[unroll]] for (uint j = 0u; j < 8u; j++) {
        vec4 four = alive ? x4[(n * p.K >> 2) + b * 8u + j] : vec4(0.0);
        v[4u * j] = four.x;
        v[4u * j + 1u] = four.y;
        v[4u * j + 2u] = four.z;
        v[4u * j + 3u] = four.w;
    }
    quantize();
}
