// Matrix product for GPUs: WG threads share NR weight rows and stride along k, four threads to a sub-block of 32
// weights (each takes a word of every plane, so neighbours read neighbouring words); NT tokens share every weight.
// Sums are taken in an order that depends on WG and the subgroup size alone: a row's bits do not depend on its batch.
#version 450
#include "matmul.contract.glsl"
#include "include/quant.glsl"
#include "include/matmul_act.glsl"
#include "include/logit_key.glsl"

const uint OUT = ACT == 0u ? NR : NR / 2;    // an activation takes two rows, gate and up, for one result
const uint SUMS = NR * NT + NT;              // the products, then every token's squares
shared float partial[SUMS * (WG / 4)];       // subgroups have at least four invocations

// Activations k..k+3 of a token, zero past K; `row` is where the token's row starts.
vec4 activations(uint row, uint k) {
#if Q_FLOAT
    vec4 v = vec4(0.0);                      // K and the rows' starts need not be multiples of four
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (k + c < p.K) v[c] = x[row + k + c];
    return v;
#else
    return x4[(row + k) >> 2];
#endif
}

vec4 norm_weights(uint k) {
#if Q_FLOAT
    vec4 v = vec4(0.0);
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (k + c < p.K) v[c] = norm[k + c];
    return v;
#else
    return norm4[k >> 2];
#endif
}

float dot_in_order(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// One of the workgroup's sums, subgroup by subgroup.
float total(uint a) {
    float v = 0.0;
    for (uint s = 0u; s < gl_NumSubgroups; s++) v += partial[a * gl_NumSubgroups + s];
    return v;
}

void main() {
    uint tiles = (p.R + NT - 1u) / NT, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint t0 = (tile % tiles) * NT, n0 = (tile / tiles) * OUT, results = ACT == 0u ? p.N : p.N / 2u;
    uint thread = gl_LocalInvocationID.x, i = thread & 3u;
    uint nb = q_blocks(p.K), stride = q_stride(p.K) >> 2;

    uint x_row[NT];
    float acc[SUMS];
    [[unroll]] for (uint t = 0u; t < NT; t++) x_row[t] = min(t0 + t, p.R - 1u) * p.x_stride;
    [[unroll]] for (uint a = 0u; a < SUMS; a++) acc[a] = 0.0;

    for (uint b = thread >> 2; b < nb; b += WG / 4u) {
        vec4 low[NT], high[NT];
        [[unroll]] for (uint t = 0u; t < NT; t++) {
            low[t] = activations(x_row[t], b * 32u + i * 4u);
            high[t] = activations(x_row[t], b * 32u + 16u + i * 4u);
            if (NORM == 0u) continue;
            uint a = NR * NT + t;
            acc[a] = dot_in_order(high[t], high[t], dot_in_order(low[t], low[t], acc[a]));
            low[t] *= norm_weights(b * 32u + i * 4u);
            high[t] *= norm_weights(b * 32u + 16u + i * 4u);
        }
        [[unroll]] for (uint n = 0u; n < NR; n++) {
            uint row = min(n0 + n % OUT, results - 1u) + n / OUT * results;
            QEight q = q_read(row * stride, p.K, b, i);
#if Q_FLOAT
            if (b * 32u + i * 4u >= p.K) q.low = vec4(0.0);
            if (b * 32u + 16u + i * 4u >= p.K) q.high = vec4(0.0);
#endif
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                uint a = n * NT + t;
#if Q_FLOAT
                acc[a] = dot_in_order(q.high, high[t], dot_in_order(q.low, low[t], acc[a]));
#else
                float l = dot_in_order(q.low - Q_BIAS, low[t], 0.0);
                float h = dot_in_order(q.high - Q_BIAS, high[t], 0.0);
                acc[a] = fma(q.scale.y, h, fma(q.scale.x, l, acc[a]));
#if Q_MIN
                acc[a] = fma(q.minimum.x, dot_in_order(low[t], vec4(1.0), 0.0), acc[a]);
                acc[a] = fma(q.minimum.y, dot_in_order(high[t], vec4(1.0), 0.0), acc[a]);
#endif
#endif
            }
        }
    }

    [[unroll]] for (uint a = 0u; a < SUMS; a++) {
        if (NORM == 0u && a >= NR * NT) break;
        float sum = subgroupAdd(acc[a]);
        if (subgroupElect()) partial[a * gl_NumSubgroups + gl_SubgroupID] = sum;
    }
    barrier();
    for (uint a = thread; a < OUT * NT; a += WG) {
        uint column = n0 + a / NT, token = t0 + a % NT;
        if (column >= results || token >= p.R) continue;
        float scale = NORM == 0u ? 1.0 : 1.0 / sqrt(total(NR * NT + a % NT) / float(p.K) + p.eps);
        float v = total(a);
        if (NORM != 0u) v *= scale;
        uint at = token * p.y_stride + p.y_offset + p.n0 + column;
        if (p.has_bias != 0u) v += bias[p.n0 + column];
        if (ACT != 0u) {
            float up = total(a + OUT * NT);
            if (NORM != 0u) up *= scale;
            if (p.has_bias != 0u) up += bias[results + column];
            v = activation(v) * up;
        }
        if (p.has_residual != 0u) v += residual[at];
        y[at] = v;
        if (STAT != 0u) atomicMax(maxima[token * p.max_stride + block_of(p.n0 + column)], key_of(v));
    }
}
