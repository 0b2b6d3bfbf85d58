// The product of two float matrices for few-lane devices without real vector loads (llvmpipe). A workgroup is one group of
// lanes; a lane owns four neighbouring columns of C and MR rows of them. For four steps along k the lanes load the rows'
// operand together, 16 bytes each, and hand it round by shuffles; every value then meets four columns. The loop goes row
// by row, so that what does not fit the registers (the sums) moves once for four steps, and the loads of both operands are
// shared by MR rows. Measured: 32 rows, where there are as many, are a fifth faster than 16 and a half than 8.
// A sum is taken in the order of k, one after the other, whatever the shape of the workgroup.
#version 450
#include "gemm.contract.glsl"

const uint NC = 4u, KU = 4u;
const uint QUADS = MR / 4u;                                    // texels of a k, TA
const uint TOGETHER = QUADS >= LANES ? 1u : LANES / QUADS;     // k's that one load of all lanes covers, TA
const uint EACH = QUADS >= LANES ? QUADS / LANES : 1u;         // loads for one k, TA
const uint LOADS = TA == 0u ? MR / LANES : KU / TOGETHER * EACH;

uint a_last, b_last;                                           // last texels

vec4 moved(vec4 low, vec4 high, uint by) {
    vec4 v = by == 0u ? low : vec4(low.yzw, high.x);
    v = by == 2u ? vec4(low.zw, high.xy) : v;
    return by == 3u ? vec4(low.w, high.xyz) : v;
}

// Elements at..at+3 of a or b, what lies past the last texel being anything.
vec4 a_four(uint at) {
    if (AV != 0u) return uintBitsToFloat(texelFetch(a, int(at >> 2)));
    vec4 low = uintBitsToFloat(texelFetch(a, int(at >> 2)));
    return moved(low, uintBitsToFloat(texelFetch(a, int(min((at >> 2) + 1u, a_last)))), at & 3u);
}

vec4 b_four(uint at) {
    if (BV != 0u) return uintBitsToFloat(texelFetch(b, int(at >> 2)));
    vec4 low = uintBitsToFloat(texelFetch(b, int(at >> 2)));
    return moved(low, uintBitsToFloat(texelFetch(b, int(min((at >> 2) + 1u, b_last)))), at & 3u);
}

// Rows that are k long end where `end` says: nothing of what follows may count, since zero times NaN is NaN.
vec4 cut(vec4 v, uint k, uint end) {
    [[unroll]] for (uint u = 0u; u < KU; u++) v[u] = k + u < end ? v[u] : 0.0;
    return v;
}

// The value of row r at k + u, from the lane that loaded it.
float row_value(vec4 loaded[LOADS], uint r, uint u) {
    if (TA == 0u) return subgroupShuffle(loaded[r / LANES][u], r % LANES);
    uint quad = r / 4u;
    if (QUADS >= LANES) return subgroupShuffle(loaded[u * EACH + quad / LANES][r & 3u], quad % LANES);
    return subgroupShuffle(loaded[u / TOGETHER][r & 3u], u % TOGETHER * QUADS + quad);
}

float base_at(uint at) { return uintBitsToFloat(texelFetch(base, int(at >> 2))[at & 3u]); }

// Push constants are read here, in front of all control flow: inside it llvmpipe gathers them lane by lane.
void main() {
    uint M = p.M, N = p.N, lda = p.lda, ldb = p.ldb, c_row = p.c_row, c_col = p.c_col;
    uint lane = gl_LocalInvocationID.x, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint rows = (M + MR - 1u) / MR;
    uint i0 = (tile % rows) * MR, j = (tile / rows) * LANES * NC + lane * NC;
    uint begin = gl_WorkGroupID.z * p.k_split, end = min(begin + p.k_split, p.K);
    uint c_at = p.c_offset + gl_WorkGroupID.z * p.c_split;
    float alpha = p.alpha;
    a_last = uint(textureSize(a)) - 1u;
    b_last = uint(textureSize(b)) - 1u;

    float acc[MR * NC];
    [[unroll]] for (uint i = 0u; i < MR * NC; i++) acc[i] = 0.0;
    uint b_at[NC], a_at[LOADS];
    [[unroll]] for (uint n = 0u; n < NC; n++)
        b_at[n] = p.b_offset + (TB != 0u ? min(j + n, N - 1u) * ldb : BV != 0u ? min(j, N - NC) : min(j, N - 1u));
    [[unroll]] for (uint l = 0u; l < LOADS; l++) {
        uint row = TA == 0u ? i0 + l * LANES + lane : i0 + (l % EACH * LANES + lane % (QUADS < LANES ? QUADS : LANES)) * 4u;
        a_at[l] = p.a_offset + (TA == 0u ? min(row, M - 1u) * lda : AV != 0u ? min(row, M - 4u) : min(row, M - 1u));
    }

    for (uint k = begin; k < end; k += KU) {
        vec4 columns[NC], loaded[LOADS];
        [[unroll]] for (uint n = 0u; n < NC; n++) {
            if (TB != 0u) columns[n] = b_four(b_at[n] + k);
            else columns[n] = b_four(b_at[0] + min(k + n, end - 1u) * ldb);
            if (TB != 0u && BV == 0u) columns[n] = cut(columns[n], k, end);
        }
        [[unroll]] for (uint l = 0u; l < LOADS; l++) {
            if (TA == 0u) {
                loaded[l] = a_four(a_at[l] + k);
                if (AV == 0u) loaded[l] = cut(loaded[l], k, end);
            } else {
                uint at = k + (QUADS >= LANES ? l / EACH : l * TOGETHER + lane / QUADS);
                loaded[l] = a_four(a_at[l] + min(at, end - 1u) * lda);
                loaded[l] = at < end ? loaded[l] : vec4(0.0);
            }
        }
        [[unroll]] for (uint r = 0u; r < MR; r++)
            [[unroll]] for (uint u = 0u; u < KU; u++) {
                float v = row_value(loaded, r, u);
                [[unroll]] for (uint n = 0u; n < NC; n++) {
                    float w = TB != 0u ? columns[n][u] : columns[u][n];
                    acc[r * NC + n] = fma(v, w, acc[r * NC + n]);
                }
            }
    }

    if (CV == 2u) {
        [[unroll]] for (uint r = 0u; r < MR; r += 4u)
            [[unroll]] for (uint n = 0u; n < NC; n++) {
                if (i0 + r >= M || j + n >= N) continue;
                uint at = (c_at + i0 + r + (j + n) * c_col) >> 2;
                vec4 v = vec4(acc[r * NC + n], acc[(r + 1u) * NC + n], acc[(r + 2u) * NC + n], acc[(r + 3u) * NC + n]) * alpha;
                if (BASE != 0u) v += uintBitsToFloat(texelFetch(base, int(at)));
                c4[at] = v;
            }
        return;
    }
    [[unroll]] for (uint r = 0u; r < MR; r++) {
        if (i0 + r >= M) continue;
        uint row = c_at + (i0 + r) * c_row;
        if (CV == 1u) {
            if (j >= N) continue;
            uint at = (row + j) >> 2;
            vec4 v = vec4(acc[r * NC], acc[r * NC + 1u], acc[r * NC + 2u], acc[r * NC + 3u]) * alpha;
            if (BASE != 0u) v += uintBitsToFloat(texelFetch(base, int(at)));
            c4[at] = v;
            continue;
        }
        [[unroll]] for (uint n = 0u; n < NC; n++) {
            if (j + n >= N) continue;
            uint at = row + (j + n) * c_col;
            float v = acc[r * NC + n] * alpha;
            c[at] = BASE != 0u ? v + base_at(at) : v;
        }
    }
}
