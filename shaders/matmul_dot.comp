// Matrix product with packed integer dot products, for GPUs: WG threads share NR weight rows and stride along k, a thread
// taking 16 bytes of a weight row and the same places of NT quantised token rows. A row's bits depend on WG and the
// subgroup size alone. Layout of x8 and the bound of the error: flux_vk/gpu/matmul_dot.py.
#version 450
#extension GL_EXT_spirv_intrinsics : require
#include "matmul_dot.contract.glsl"
#include "include/quant_wide.glsl"
#define NORMED 0
#include "include/matvec_end.glsl"

// OpSDotKHR on four signed bytes to a word (format 0); in an intrinsic because older compilers lack the GLSL extension.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], id = 4450)
int dot_bytes(uint a, uint b, spirv_literal int format);

uint operand(uint stored) {
#if Q_LEVELS
    return bitfieldInsert(bitfieldInsert(q_levels[stored & 15u], q_levels[(stored >> 8) & 15u], 8, 8),
                          bitfieldInsert(q_levels[(stored >> 16) & 15u], q_levels[stored >> 24], 8, 8), 16, 16);
#else
    return stored;       // every biased type stays below 128
#endif
}

int dot_low(QRaw r, uvec4 x) {
    int sum = 0;
    [[unroll]] for (uint i = 0u; i < 4u; i++) sum += dot_bytes(operand(q_low(r, i)), x[i], 0);
    return sum;
}

int dot_high(QRaw r, uvec4 x) {
    int sum = 0;
#if QTYPE != Q8_0
    [[unroll]] for (uint i = 0u; i < 4u; i++) sum += dot_bytes(operand(q_high(r, i)), x[i], 0);
#endif
    return sum;
}

void main() {
    uint tiles = (p.R + NT - 1u) / NT, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint t0 = (tile % tiles) * NT, n0 = (tile / tiles) * NR;
    uint nb = q_blocks(p.K), units = q_units(p.K), row_step = q_stride(p.K) >> 4, x_step = p.S >> 2;
#if Q_LEVELS
    q_fill_levels();
    barrier();
#endif
    uint row[NR], x_row[NT], me = gl_LocalInvocationID.x;
    QRaw raw[NR], next[NR];                  // the next turn's loads are under way while this one is multiplied
    [[unroll]] for (uint n = 0u; n < NR; n++) {
        row[n] = weight_row(n0, n) * row_step;
        if (me < units) next[n] = q_load(row[n], nb, me);
    }
    [[unroll]] for (uint t = 0u; t < NT; t++) x_row[t] = min(t0 + t, p.R - 1u) * x_step;
    [[unroll]] for (uint a = 0u; a < NR * NT; a++) acc[a] = 0.0;

    for (uint u = me; u < units; u += WG) {
        [[unroll]] for (uint n = 0u; n < NR; n++) raw[n] = next[n];
        if (u + WG < units)
            [[unroll]] for (uint n = 0u; n < NR; n++) next[n] = q_load(row[n], nb, u + WG);
        uvec4 x_low[NT], x_high[NT];
        uvec2 x_scale[NT];
        [[unroll]] for (uint t = 0u; t < NT; t++) {
#if QTYPE == Q8_0
            x_low[t] = x8q[x_row[t] + (u & 1u) * nb + (u >> 1)];
            x_scale[t] = x8s[x_row[t] * 2u + nb * 4u + (u >> 1)];
#else
            x_low[t] = x8q[x_row[t] + u];
            x_high[t] = x8q[x_row[t] + nb + u];
            x_scale[t] = x8s[x_row[t] * 2u + nb * 4u + u];
#endif
        }
        [[unroll]] for (uint n = 0u; n < NR; n++) {
            vec2 scale, minimum;
            q_scales(raw[n], u, scale, minimum);
            [[unroll]] for (uint t = 0u; t < NT; t++) {
                int low = dot_low(raw[n], x_low[t]), high = dot_high(raw[n], x_high[t]);
                ivec2 sums = ivec2(int(x_scale[t].y << 16) >> 16, int(x_scale[t].y) >> 16);
#if Q_BIASED
                low -= int(Q_BIAS) * sums.x;
                high -= int(Q_BIAS) * sums.y;
#endif
#if Q_HALVES
                float v = fma(scale.y, float(high), scale.x * float(low));
#else
                float v = scale.x * float(low + high);
#endif
#if QTYPE == Q2_K
                v = fma(minimum.y, float(sums.y), fma(minimum.x, float(sums.x), v));
#elif Q_MIN
                v = fma(minimum.x, float(sums.x + sums.y), v);
#endif
                acc[n * NT + t] = fma(uintBitsToFloat(x_scale[t].x), v, acc[n * NT + t]);
            }
        }
    }
    finish(n0, t0);
}
