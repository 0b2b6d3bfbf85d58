// Float32 rows into a block format: a thread takes a sub-block of 32 weights, sixteen neighbours two groups of 256.
// Scales narrower than a word are put together in shared memory, so that each word of y has one writer.
#version 450
#include "quantize.contract.glsl"
#include "include/quant_types.glsl"
#include "include/quant_fit.glsl"

shared float of_scale[WG], of_low[WG];
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

// Levels 0..15 of the low nibble plane.
void write_nibbles(uint level[32]) {
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        uint low = pack4(level[4u * j], level[4u * j + 1u], level[4u * j + 2u], level[4u * j + 3u]);
        uint high = pack4(level[4u * j + 16u], level[4u * j + 17u], level[4u * j + 18u], level[4u * j + 19u]);
        y[row + b * 4u + j] = low | (high << 4);
    }
}
#endif

#if QTYPE == Q4_0
void quantize() {
    float most = v[0];
    [[unroll]] for (uint i = 1u; i < 32u; i++) most = abs(v[i]) > abs(most) ? v[i] : most;
    precise float d = most / -8.0, inverse = d == 0.0 ? 0.0 : 1.0 / d;
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        precise float scaled = v[i] * inverse;
        precise float shifted = scaled + 8.5;
        level[i] = uint(clamp(trunc(shifted), 0.0, 15.0));
    }
    if (alive) write_nibbles(level);
    write_halves(q_scales_at(nb), half_bits(d));
    pad(q_scales_at(nb), (nb + 1u) >> 1);
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
#endif

#if QTYPE == Q4_K
void quantize() {
    Affine f = affine_fit(v);
    uint d_bits = half_bits(largest_of_eight(f.scale) / 63.0), m_bits = half_bits(largest_of_eight(f.low) / -63.0);
    float d = half_value(d_bits), m = half_value(m_bits);
    float s0 = d > 0.0 ? nearest(f.scale / d) : 0.0, l0 = m > 0.0 ? nearest(-f.low / m) : 0.0;

    // The six-bit values beside the rounded ones may fit the weights better.
    vec2 best = vec2(s0, l0);
    float least = 3.4e38;
    for (float ds = -2.0; ds <= 2.0; ds += 1.0)
        for (float dl = -2.0; dl <= 2.0; dl += 1.0) {
            vec2 at = clamp(vec2(s0 + ds, l0 + dl), 0.0, 63.0);
            float e = affine_error(v, Affine(d * at.x, -m * at.y));
            if (e < least) {
                least = e;
                best = at;
            }
        }
    f = Affine(d * best.x, -m * best.y);
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) level[i] = uint(affine_level(v[i], f));
    if (alive) write_nibbles(level);
    write_halves(q_scales_at(nb), uint(best.x) | (uint(best.y) << 8));
    if (alive && (b & 7u) == 0u) y[row + (q_super_at(nb) >> 2) + (b >> 3)] = d_bits | (m_bits << 16);
    pad(q_super_at(nb), nb >> 3);
}
#endif

#if QTYPE == Q6_K
float fitted_scale(uint first, float own, float d) {
    float s0 = d != 0.0 ? nearest(own / d) : 0.0, best = clamp(s0, -128.0, 127.0), least = 3.4e38;
    for (float ds = -2.0; ds <= 2.0; ds += 1.0) {
        float at = clamp(s0 + ds, -128.0, 127.0), e = signed_error(v, first, d * at);
        if (e < least) {
            least = e;
            best = at;
        }
    }
    return best;
}

void quantize() {
    vec2 scale = vec2(signed_fit(v, 0u), signed_fit(v, 16u));
    uint d_bits = half_bits(largest_of_eight(abs(scale.y) > abs(scale.x) ? scale.y : scale.x) / -128.0);
    float d = half_value(d_bits);
    vec2 s = vec2(fitted_scale(0u, scale.x, d), fitted_scale(16u, scale.y, d));
    vec2 step = d * s, inverse = mix(1.0 / step, vec2(0.0), equal(step, vec2(0.0)));
    uint level[32];
    [[unroll]] for (uint i = 0u; i < 32u; i++) level[i] = uint(int(signed_level(v[i], inverse[i >> 4])) + 32);
    uint low[32], high[2] = uint[2](0u, 0u);
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        low[i] = level[i] & 15u;
        high[(i >> 2) & 1u] |= (level[i] >> 4) << (8u * (i & 3u) + 2u * (i >> 3));
    }
    if (alive) {
        write_nibbles(low);
        y[row + (q_q2_at(nb) >> 2) + b * 2u] = high[0];
        y[row + (q_q2_at(nb) >> 2) + b * 2u + 1u] = high[1];
    }
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
