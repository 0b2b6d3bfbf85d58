// Matrix product for few-lane devices without real vector loads (llvmpipe): a lane owns NR / WG weight rows and walks
// along k by itself; eight lanes load the activations together and hand them round by shuffles, which cost an
// instruction where a load costs a branch and a dozen. NT tokens share every weight that is unpacked.
// A sum is taken in the order of k, in the same operations whatever NR, NT and WG are: a row's bits do not depend on
// the batch it stands in.
#version 450
#include "matmul.contract.glsl"
#include "include/quant_rows.glsl"

const uint RL = (NR + WG - 1) / WG;      // weight rows of a lane

uint K;

// What a lane loads of a token's activations for Q_STEP sub-blocks, and their sum. Floats: k..k+3. Blocks: k..k+7, in one
// load of 32 bytes. Zero past K.
struct Share {
    vec4 first, second;
    float sum;
};

// row: where the token's row starts; inverse: what the stored weights are to be divided by.
Share load_share(uint row, uint k, vec4 inverse) {
    Share s = Share(vec4(0.0), vec4(0.0), 0.0);
#if Q_FLOAT
    [[unroll]] for (uint c = 0u; c < 4u; c++) {          // K and the rows' starts need not be multiples of anything
        float v = x[row + min(k + c, K - 1u)];
        s.first[c] = k + c < K ? v : 0.0;
    }
#else
    u64vec4 v = x32[(row + min(k, K - 8u)) >> 3];
    s.first = k < K ? uintBitsToFloat(uvec4(q_words(v.x), q_words(v.y))) : vec4(0.0);
    s.second = k < K ? uintBitsToFloat(uvec4(q_words(v.z), q_words(v.w))) : vec4(0.0);
    s.sum = dot(s.first + s.second, vec4(1.0));
    s.first *= inverse;
    s.second *= inverse;
#endif
    return s;
}

float sum_from(Share own, Share other, uint j) {
    return from_lane(own.sum, other.sum, j) + from_lane(own.sum, other.sum, j + 1u);
}

void main() {
    // Push constants are read here, once: inside control flow llvmpipe gathers them lane by lane.
    K = p.K;
    uint N = p.N, R = p.R, x_stride = p.x_stride, y_stride = p.y_stride, y_offset = p.y_offset, first = p.n0;
    bool has_bias = p.has_bias != 0u, has_residual = p.has_residual != 0u;
    uint tiles = (R + NT - 1u) / NT, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint t0 = (tile % tiles) * NT, n0 = (tile / tiles) * NR + gl_LocalInvocationID.x;
    uint lane = gl_SubgroupInvocationID & lane_mask(), nb = q_blocks(K), stride = q_stride(K) >> 4;
    QTable table = q_table(lane);
    const uint each = Q_FLOAT ? 4u : 8u;                 // activations that a lane loads
    vec4 inverse = 1.0 / q_unit((lane & 2u) != 0u);

    uint row[RL], x_row[NT];
    float acc[RL * NT];
    [[unroll]] for (uint n = 0u; n < RL; n++) row[n] = min(n0 + n * WG, N - 1u) * stride;
    [[unroll]] for (uint t = 0u; t < NT; t++) x_row[t] = min(t0 + t, R - 1u) * x_stride;
    [[unroll]] for (uint a = 0u; a < RL * NT; a++) acc[a] = 0.0;

    // Many short rows at once are more streams than a CPU's prefetcher follows: read a word of every cache line first, in
    // the order of addresses. Long rows do better without (measured: the bound is about half a page).
    uint touched = 0u, begin = (tile / tiles) * NR, end_row = min(begin + NR, N);
    uint lines = stride < 128u && t0 == 0u ? (end_row - begin) * stride / 4u : 0u;
    for (uint i = gl_LocalInvocationID.x; i < lines; i += WG) touched |= w[begin * stride * 4u + i * 16u];

    for (uint b8 = 0u; b8 < nb; b8 += 8u) {
        QScales scales[RL];
        [[unroll]] for (uint n = 0u; n < RL; n++) scales[n] = q_scales(row[n], nb, b8);
        uint end = min(b8 + 8u, nb);
        for (uint b = b8; b < end; b += Q_STEP) {
            QPart part[RL];
            [[unroll]] for (uint n = 0u; n < RL; n++) part[n] = q_part(row[n], K, b);
            Share own[NT], other[NT];
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                own[t] = load_share(x_row[t], b * 32u + lane * each, inverse);
                if (!eight_lanes()) other[t] = load_share(x_row[t], b * 32u + (lane + 4u) * each, inverse);
            }
            [[unroll]] for (uint u = 0u; u < Q_STEP; u++) {
                vec4 q[RL * 8], factors[RL];
                [[unroll]] for (uint n = 0u; n < RL; n++) {
                    factors[n] = q_factors(scales[n], part[n]);
                    [[unroll]] for (uint g = 0u; g < 8u; g++) {
                        q[n * 8 + g] = q_group(part[n], g, table);
#if Q_FLOAT
                        if ((b + u) * 32u + g * 4u >= K) q[n * 8 + g] = vec4(0.0);
#endif
                    }
                }
                [[unroll]] for (uint t = 0u; t < NT; t++) {
                    float low[RL], high[RL], x_low = 0.0, x_high = 0.0;
                    [[unroll]] for (uint n = 0u; n < RL; n++) low[n] = high[n] = 0.0;
                    [[unroll]] for (uint g = 0u; g < 8u; g++)
                        [[unroll]] for (uint c = 0u; c < 4u; c++) {
#if Q_FLOAT
                            float v = from_lane(own[t].first[c], other[t].first[c], g);
#else
                            float v = (g & 1u) == 0u
                                ? from_lane(own[t].first[c], other[t].first[c], u * 4u + (g >> 1))
                                : from_lane(own[t].second[c], other[t].second[c], u * 4u + (g >> 1));
#endif
                            [[unroll]] for (uint n = 0u; n < RL; n++) {
#if Q_HALVES
                                if (g >= 4u) high[n] = fma(q[n * 8 + g][c], v, high[n]);
                                else
#endif
                                low[n] = fma(q[n * 8 + g][c], v, low[n]);
                            }
                        }
#if !Q_FLOAT && !(Q_LEVELS)
                    x_low = sum_from(own[t], other[t], u * 4u);
                    x_high = sum_from(own[t], other[t], u * 4u + 2u);
#endif
                    [[unroll]] for (uint n = 0u; n < RL; n++) {
                        uint a = n * NT + t;
#if Q_FLOAT
                        acc[a] += low[n];
#elif Q_LEVELS
                        acc[a] = fma(factors[n].x, low[n], acc[a]);
#elif Q_HALVES
                        acc[a] = fma(factors[n].x, low[n], fma(factors[n].y, x_low, acc[a]));
                        acc[a] = fma(factors[n].z, high[n], fma(factors[n].w, x_high, acc[a]));
#else
                        acc[a] = fma(factors[n].x, low[n], fma(factors[n].y, x_low + x_high, acc[a]));
#endif
                    }
                }
                [[unroll]] for (uint n = 0u; n < RL; n++) q_advance(part[n], scales[n]);
            }
            [[unroll]] for (uint n = 0u; n < RL; n++) scales[n].word = scales[n].word.yzwx;
        }
    }
    if (touched == 0xffffffffu && R == 0u) acc[0] = 0.0;     // never: it keeps the reads alive
    [[unroll]] for (uint n = 0u; n < RL; n++)
        [[unroll]] for (uint t = 0u; t < NT; t++) {
            uint column = n0 + n * WG;
            if (gl_LocalInvocationID.x + n * WG < NR && column < N && t0 + t < R) {
                uint at = (t0 + t) * y_stride + y_offset + first + column;
                float v = acc[n * NT + t];
                if (has_bias) v += bias[first + column];
                if (has_residual) v += residual[at];
                y[at] = v;
            }
        }
}
