// Weights times many rows of activations for few-lane devices without real vector loads (llvmpipe). A workgroup is one
// group of lanes; a lane owns four neighbouring weight rows, whose weights it unpacks four at a time as it walks along k,
// and MR tokens, whose activations the lanes load together and hand round by shuffles.
// A sum is taken in the order of k, whatever the shape of the workgroup.
#version 450
#include "matmul_train.contract.glsl"
#include "include/quant_block.glsl"

const uint NC = 4u, LOADS = MR / LANES;

// Push constants are read here, in front of all control flow: inside it llvmpipe gathers them lane by lane.
void main() {
    uint N = p.N, K = p.K, R = p.R, y_stride = p.y_stride, y_at = p.y_offset + p.n0, n0 = p.n0;
    bool has_bias = p.has_bias != 0u;
    uint lane = gl_LocalInvocationID.x, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint tiles = (R + MR - 1u) / MR, t0 = (tile % tiles) * MR, n = (tile / tiles) * LANES * NC + lane * NC;
    uint stride = q_stride(K) >> 4, nb = q_blocks(K);
    QTable table = q_table(lane);
    uint row[NC], x_at[LOADS];
    [[unroll]] for (uint i = 0u; i < NC; i++) row[i] = min(n + i, N - 1u) * stride;
    [[unroll]] for (uint l = 0u; l < LOADS; l++) x_at[l] = (min(t0 + l * LANES + lane, R - 1u) * p.x_stride) >> 2;

    float acc[MR * NC];
    [[unroll]] for (uint a = 0u; a < MR * NC; a++) acc[a] = 0.0;
    for (uint b = 0u; b < nb; b++) {
#if !Q_FLOAT
        QBlock block[NC];
        [[unroll]] for (uint i = 0u; i < NC; i++) block[i] = q_block(row[i], K, b);
#endif
        for (uint g = 0u; g < 8u; g++) {
            uint k = b * 32u + g * 4u;
            vec4 x[LOADS], w[NC];
            [[unroll]] for (uint l = 0u; l < LOADS; l++) {
                x[l] = uintBitsToFloat(texelFetch(x_texels, int(x_at[l] + (min(k, K - 4u) >> 2))));
#if Q_FLOAT
                x[l] = k < K ? x[l] : vec4(0.0);             // K is a multiple of 4, with blocks of 32
#endif
            }
#if Q_FLOAT
            [[unroll]] for (uint i = 0u; i < NC; i++) w[i] = q_floats(row[i], K, b, g);
#else
            [[unroll]] for (uint i = 0u; i < NC; i++) w[i] = q_four(block[i], g, table);
#endif
            [[unroll]] for (uint t = 0u; t < MR; t++)
                [[unroll]] for (uint u = 0u; u < 4u; u++) {
                    float v = subgroupShuffle(x[t / LANES][u], t % LANES);
                    [[unroll]] for (uint i = 0u; i < NC; i++) acc[t * NC + i] = fma(v, w[i][u], acc[t * NC + i]);
                }
        }
    }

    vec4 added = vec4(0.0);
    if (has_bias) added = bias4[(n0 + min(n, N - 4u)) >> 2];
    [[unroll]] for (uint t = 0u; t < MR; t++) {
        if (t0 + t >= R || n >= N) continue;
        uint at = ((t0 + t) * y_stride + y_at + n) >> 2;
        vec4 v = vec4(acc[t * NC], acc[t * NC + 1u], acc[t * NC + 2u], acc[t * NC + 3u]) + added;
        if (RESIDUAL != 0u) v += uintBitsToFloat(texelFetch(residual_texels, int(at)));
        y4[at] = v;
    }
}
