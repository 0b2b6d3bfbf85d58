// Matrix product for few-lane devices without real vector loads (llvmpipe): a lane owns NR / WG weight rows and walks
// along k by itself; eight lanes load the activations together and hand them round by shuffles, which cost an
// instruction where a load costs a branch and a dozen. NT tokens share every weight that is unpacked.
// A sum is taken in the order of k, in the same operations whatever NR, NT and WG are: a row's bits do not depend on
// the batch it stands in.
#include "include/quant_rows.glsl"
#include "include/matmul_act.glsl"
#include "include/logit_key.glsl"

const uint RL = (NR + WG - 1) / WG;      // weight rows of a lane
const uint OL = ACT == 0u ? RL : RL / 2; // results of a lane and token: an activation takes two rows for one
const bool PLANES = !(Q_FLOAT || QTYPE == Q8_0);
const uint OUT = ACT == 0u ? NR : NR / 2;

uint K;

// What a lane loads of a token's activations for Q_STEP sub-blocks, their sum, and the sum of their squares in front of
// the norm's weights. Floats: k..k+3. Blocks: k..k+7. Zero past K.
struct Share {
    vec4 first, second;
    float sum, squares;
};

// The norm's weights of a share.
Share load_norm(uint k) {
    Share s = Share(vec4(1.0), vec4(1.0), 0.0, 0.0);
    if (NORM == 0u) return s;
#if Q_FLOAT
    [[unroll]] for (uint c = 0u; c < 4u; c++) s.first[c] = norm[min(k + c, K - 1u)];
#else
    int at = int(min(k, K - 8u) >> 2);
    s.first = uintBitsToFloat(texelFetch(norm_texels, at));
    s.second = uintBitsToFloat(texelFetch(norm_texels, at + 1));
#endif
    return s;
}

// row: where the token's row starts.
Share load_share(uint row, uint k, Share weights, vec4 inverse) {
    Share s = Share(vec4(0.0), vec4(0.0), 0.0, 0.0);
#if Q_FLOAT
    [[unroll]] for (uint c = 0u; c < 4u; c++) {          // K and the rows' starts need not be multiples of anything
        float v = x[row + min(k + c, K - 1u)];
        s.first[c] = k + c < K ? v : 0.0;
    }
    if (NORM != 0u) {
        s.squares = dot(s.first, s.first);
        s.first *= weights.first;
    }
#else
    int at = int((row + min(k, K - 8u)) >> 2);
    s.first = k < K ? uintBitsToFloat(texelFetch(x_texels, at)) : vec4(0.0);
    s.second = k < K ? uintBitsToFloat(texelFetch(x_texels, at + 1)) : vec4(0.0);
    if (NORM != 0u) {
        s.squares = dot(s.first, s.first) + dot(s.second, s.second);
        s.first *= weights.first;
        s.second *= weights.second;
    }
    s.sum = dot(s.first + s.second, vec4(1.0));
    s.first *= inverse;
    s.second *= inverse;
#endif
    return s;
}

float sum_from(Share own, Share other, uint j) {
    return from_lane(own.sum, other.sum, j) + from_lane(own.sum, other.sum, j + 1u);
}

// The weight row of a lane's place n; with an activation the first half are gate rows, the others up rows.
uint weight_row(uint n0, uint n, uint N) {
    if (ACT == 0u) return min(n0 + n * WG, N - 1u);
    uint half_rows = N / 2u, in_half = min(n0 + (n % OL) * WG, half_rows - 1u);
    return n < OL ? in_half : half_rows + in_half;
}

// Reads a word of every cache line of rows begin..end-1 in the order of addresses; the result keeps the reads alive.
uint touch(uint begin, uint end, uint stride) {
    uint touched = 0u;
    for (uint i = gl_LocalInvocationID.x; i < (end - begin) * stride / 4u; i += WG)
        touched |= q_load16(begin * stride + i * 4u).x;
    return touched;
}

// One tile: OUT columns of NT tokens. Called once, in front of all control flow, because push constants are read here:
// inside control flow llvmpipe gathers them lane by lane.
void product(uint tile) {
    K = p.K;
    uint N = p.N, R = p.R, x_stride = p.x_stride, y_stride = p.y_stride, y_offset = p.y_offset, first = p.n0;
    float eps = p.eps;
    bool has_bias = p.has_bias != 0u;
    uint tiles = (R + NT - 1u) / NT;
    uint t0 = (tile % tiles) * NT, n0 = (tile / tiles) * OUT + gl_LocalInvocationID.x;
    uint lane = gl_SubgroupInvocationID & lane_mask(), nb = q_blocks(K), stride = q_stride(K) >> 4;
    QTable table = q_table(lane);
    const uint each = Q_FLOAT ? 4u : 8u;                 // activations that a lane loads
    vec4 inverse = 1.0 / q_unit((lane & 2u) != 0u);

    uint row[RL], x_row[NT];
    float acc[RL * NT], squares[NT];
    [[unroll]] for (uint n = 0u; n < RL; n++) row[n] = weight_row(n0, n, N) * stride;
    [[unroll]] for (uint t = 0u; t < NT; t++) {
        x_row[t] = min(t0 + t, R - 1u) * x_stride;
        squares[t] = 0.0;
    }
    [[unroll]] for (uint a = 0u; a < RL * NT; a++) acc[a] = 0.0;

    // Many short rows at once are more streams than a CPU's prefetcher follows: read a word of every cache line first, in
    // the order of addresses. Long rows do better without (measured: the bound is about half a page), and so do types
    // whose rows are little else than one plane.
    uint touched = 0u, results = ACT == 0u ? N : N / 2u;
    if (PLANES && stride < 128u && t0 == 0u) {
        uint begin = (tile / tiles) * OUT, end = min(begin + OUT, results);
        touched = touch(begin, end, stride);
        if (ACT != 0u) touched |= touch(results + begin, results + end, stride);
    }

    for (uint b8 = 0u; b8 < nb; b8 += 8u) {
        QScales scales[RL];
        [[unroll]] for (uint n = 0u; n < RL; n++) scales[n] = q_scales(row[n], nb, b8);
        uint end = min(b8 + 8u, nb);
        for (uint b = b8; b < end; b += Q_STEP) {
            QPart part[RL];
            [[unroll]] for (uint n = 0u; n < RL; n++) part[n] = q_part(row[n], K, b);
            Share own[NT], other[NT];
            uint k = b * 32u + lane * each, other_k = k + 4u * each;
            Share weights = load_norm(k), other_weights;
            if (!eight_lanes()) other_weights = load_norm(other_k);
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                own[t] = load_share(x_row[t], k, weights, inverse);
                if (!eight_lanes()) other[t] = load_share(x_row[t], other_k, other_weights, inverse);
                if (NORM != 0u) squares[t] += own[t].squares + (eight_lanes() ? 0.0 : other[t].squares);
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
    [[unroll]] for (uint t = 0u; t < NT; t++) {
        float scale = 1.0;
        if (NORM != 0u) {
            float all = 0.0;
            [[unroll]] for (uint j = 0u; j < 8u; j++) all += from_lane(squares[t], 0.0, j);
            scale = 1.0 / sqrt(all / float(K) + eps);
        }
        [[unroll]] for (uint n = 0u; n < OL; n++) {
            uint column = n0 + n * WG, at = (t0 + t) * y_stride + y_offset + first + column;
            bool there = gl_LocalInvocationID.x + n * WG < OUT && column < results && t0 + t < R;
            float v = acc[n * NT + t];
#ifndef MATMUL_TAIL
            if (STAT != 0u) {        // four neighbours share a block; the windows of a matrix start at multiples of four
                uint key = there ? key_of(NORM != 0u ? v * scale : v) : 0u;
                key = max(key, subgroupShuffleXor(key, 1u));
                key = max(key, subgroupShuffleXor(key, 2u));
                if ((lane & 3u) == 0u && there) atomicMax(maxima[(t0 + t) * p.max_stride + block_of(first + column)], key);
            }
#endif
            if (!there) continue;
            if (NORM != 0u) v *= scale;
            if (has_bias) v += bias[first + column];
            if (ACT != 0u) {
                float up = acc[(n + OL) % RL * NT + t];
                if (NORM != 0u) up *= scale;
                if (has_bias) up += bias[results + column];
                v = activation(v) * up;
            }
#ifndef MATMUL_TAIL
            if (p.has_residual != 0u) v += residual[at];
#endif
            y[at] = v;
        }
    }
}
