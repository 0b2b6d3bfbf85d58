// The product of two float matrices on a GPU: a workgroup makes BM rows by BN columns of C, a thread TM by TN of them in
// registers. Rows and columns of a thread lie BM / TM and BN / TN apart, so that neighbouring threads read neighbouring
// words of shared memory and write neighbouring columns. Both tiles are kept by k; the odd distance between two k's lets
// operands whose rows run along k be stored without two threads meeting in a bank. Neighbouring threads load neighbouring
// elements, whichever way an operand lies. One chain of multiply-adds in the order of k for every element.
#version 450
#include "gemm_tile.contract.glsl"

const uint BK = 16u;
const uint A_STRIDE = BM + 1u, B_STRIDE = BN + 1u;
const uint A_UNITS = (BM * BK + WG - 1u) / WG, B_UNITS = (BN * BK + WG - 1u) / WG;

shared float tile_a[BK * A_STRIDE];
shared float tile_b[BK * B_STRIDE];

void main() {
    const uint rows = BM / TM, columns = BN / TN;
    uint thread = gl_LocalInvocationID.x, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint across = (p.M + BM - 1u) / BM;
    uint i0 = (tile % across) * BM, j0 = (tile / across) * BN;
    uint row = thread / columns, column = thread % columns;
    uint begin = gl_WorkGroupID.z * p.k_split, end = min(begin + p.k_split, p.K);
    float acc[TM * TN];
    [[unroll]] for (uint e = 0u; e < TM * TN; e++) acc[e] = 0.0;

    for (uint k0 = begin; k0 < end; k0 += BK) {
        [[unroll]] for (uint u = 0u; u < A_UNITS; u++) {
            uint unit = thread + u * WG;
            uint i = TA == 0u ? unit / BK : unit % BM, k = TA == 0u ? unit % BK : unit / BM;
            if (BM * BK % WG != 0u && unit >= BM * BK) continue;
            bool there = i0 + i < p.M && k0 + k < end;
            uint at = p.a_offset + (TA == 0u ? (i0 + i) * p.lda + k0 + k : (k0 + k) * p.lda + i0 + i);
            tile_a[k * A_STRIDE + i] = there ? a[there ? at : 0u] : 0.0;
        }
        [[unroll]] for (uint u = 0u; u < B_UNITS; u++) {
            uint unit = thread + u * WG;
            uint j = TB != 0u ? unit / BK : unit % BN, k = TB != 0u ? unit % BK : unit / BN;
            if (BN * BK % WG != 0u && unit >= BN * BK) continue;
            bool there = j0 + j < p.N && k0 + k < end;
            uint at = p.b_offset + (TB != 0u ? (j0 + j) * p.ldb + k0 + k : (k0 + k) * p.ldb + j0 + j);
            tile_b[k * B_STRIDE + j] = there ? b[there ? at : 0u] : 0.0;
        }
        barrier();
        for (uint k = 0u; k < BK; k++) {
            float a_part[TM];
            [[unroll]] for (uint m = 0u; m < TM; m++) a_part[m] = tile_a[k * A_STRIDE + row + m * rows];
            [[unroll]] for (uint n = 0u; n < TN; n++) {
                float b_part = tile_b[k * B_STRIDE + column + n * columns];
                [[unroll]] for (uint m = 0u; m < TM; m++) acc[m * TN + n] = fma(a_part[m], b_part, acc[m * TN + n]);
            }
        }
        barrier();
    }

    [[unroll]] for (uint m = 0u; m < TM; m++)
        [[unroll]] for (uint n = 0u; n < TN; n++) {
            uint i = i0 + row + m * rows, j = j0 + column + n * columns;
            if (i >= p.M || j >= p.N) continue;
            uint at = p.c_offset + gl_WorkGroupID.z * p.c_split + i * p.ldc + j;
            float v = acc[m * TN + n] * p.alpha;
            c[at] = p.has_base != 0u ? base[at] + v : v;
        }
}
