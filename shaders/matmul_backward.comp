// Gradients times weights for few-lane devices without real vector loads (llvmpipe). A workgroup is one group of lanes and
// makes one sub-block's 32 columns of dx for LANES * NC tokens, NC to a lane. For as many steps along the weight rows as
// there are lanes, every lane unpacks that sub-block of a row of its own; the weights go round by shuffles, each meets NC
// tokens. So a weight is unpacked once for all those tokens, and no gradient is loaded twice by a workgroup.
// A sum is taken in the order of the weight rows, whatever the shape of the workgroup.
#version 450
#include "matmul_backward.contract.glsl"
#include "include/quant_block.glsl"

const uint QUADS = LANES / 4u;

// Push constants are read here, in front of all control flow: inside it llvmpipe gathers them lane by lane.
void main() {
    uint N = p.N, K = p.K, R = p.R;
    uint lane = gl_LocalInvocationID.x, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint tiles = (R + LANES * NC - 1u) / (LANES * NC);
    uint t0 = (tile % tiles) * LANES * NC + lane, b = tile / tiles;
    if (b >= q_blocks(K)) return;
    uint stride = q_stride(K) >> 4;
    QTable table = q_table(lane);
    uint g_at[NC];
    [[unroll]] for (uint t = 0u; t < NC; t++) g_at[t] = (min(t0 + t * LANES, R - 1u) * p.g_stride + p.g_offset) >> 2;

    float acc[32u * NC];
    [[unroll]] for (uint i = 0u; i < 32u * NC; i++) acc[i] = 0.0;
    for (uint n = 0u; n < N; n += LANES) {
        QBlock block = q_block(min(n + lane, N - 1u) * stride, K, b);
        vec4 g[NC * QUADS];
        [[unroll]] for (uint t = 0u; t < NC; t++)
            [[unroll]] for (uint u = 0u; u < QUADS; u++) {
                uint at = (n >> 2) + u;                      // N is a multiple of 4: quads are whole
                vec4 v = uintBitsToFloat(texelFetch(g_texels, int(g_at[t] + min(at, (N >> 2) - 1u))));
                g[t * QUADS + u] = at < N >> 2 ? v : vec4(0.0);
            }
        [[unroll]] for (uint q = 0u; q < 8u; q++) {
            vec4 four = q_four(block, q, table);
            [[unroll]] for (uint c = 0u; c < 4u; c++)
                [[unroll]] for (uint j = 0u; j < LANES; j++) {
                    float v = subgroupShuffle(four[c], j);
                    [[unroll]] for (uint t = 0u; t < NC; t++) {
                        uint a = (q * 4u + c) * NC + t;
                        acc[a] = fma(v, g[t * QUADS + j / 4u][j & 3u], acc[a]);
                    }
                }
        }
    }
    [[unroll]] for (uint t = 0u; t < NC; t++) {
        uint token = t0 + t * LANES;
        [[unroll]] for (uint q = 0u; q < 8u; q++) {
            if (token >= R || b * 32u + q * 4u >= K) continue;
            uint at = (token * K + b * 32u) / 4u + q, a = q * 4u * NC + t;
            vec4 v = vec4(acc[a], acc[a + NC], acc[a + 2u * NC], acc[a + 3u * NC]);
            if (BASE != 0u) v += uintBitsToFloat(texelFetch(base_texels, int(at)));
            dx4[at] = v;
        }
    }
}
