// Matrix product for many tokens on a GPU: a workgroup makes BM weight rows by BN tokens of the result, a thread TM by
// TN of them in registers. Rows and tokens of a thread lie BM / TM and BN / TN apart, so that neighbouring threads read
// neighbouring rows of shared memory (9 groups of 16 bytes apart: no two meet in a bank) and write neighbouring columns.
// HALF keeps the tiles as 16-bit floats; products and sums are 32-bit either way. One chain of fused multiply-adds in
// the order of k for every element: its bits depend on no shape and no neighbour.
#version 450
#include "matmul_tile.contract.glsl"
#define TILE_PAD 4u
#define TILE_PAIR BM
#include "include/tile.glsl"

#if HALF
#define FOUR_STAGED f16vec4
#else
#define FOUR_STAGED vec4
#endif

shared FOUR_STAGED tile_w[BM * STRIDE / 4u];
shared FOUR_STAGED tile_x[BN * STRIDE / 4u];

FOUR_STAGED staged(vec4 v) {
#if HALF
    return FOUR_STAGED(clamp(v, vec4(-65504.0), vec4(65504.0)));
#else
    return v;
#endif
}

void put_w(uint at, vec4 v) { tile_w[at >> 2] = staged(v); }
void put_x(uint at, vec4 v) { tile_x[at >> 2] = staged(v); }

void main() {
    const uint rows = BM / TM, tokens = BN / TN, steps = STRIDE / 4u;
    tile_begin();
    uint row = thread % rows, token = thread / rows, nb = q_blocks(p.K);
    float acc[TM * TN];
    [[unroll]] for (uint a = 0u; a < TM * TN; a++) acc[a] = 0.0;

    if (AHEAD != 0u) tile_fetch(0u);
    for (uint b = 0u; b < nb; b++) {
        if (AHEAD == 0u) tile_fetch(b);
        tile_store(b);
        barrier();
        if (AHEAD != 0u && b + 1u < nb) tile_fetch(b + 1u);      // arrives while this step is computed
        for (uint k = 0u; k < BK / 4u; k++) {
            vec4 w_part[TM];
            [[unroll]] for (uint m = 0u; m < TM; m++) w_part[m] = vec4(tile_w[(row + m * rows) * steps + k]);
            [[unroll]] for (uint t = 0u; t < TN; t++) {
                vec4 x_part = vec4(tile_x[(token + t * tokens) * steps + k]);
                [[unroll]] for (uint m = 0u; m < TM; m++)
                    acc[m * TN + t] = dot_in_order(w_part[m], x_part, acc[m * TN + t]);
            }
        }
        barrier();
    }

    tile_end();
    const uint made = ACT == 0u ? TM : TM / 2u;
    [[unroll]] for (uint t = 0u; t < TN; t++) {
        float scale = token_scale(token + t * tokens);
        [[unroll]] for (uint m = 0u; m < made; m++)
            tile_write(row + m * rows, token + t * tokens, acc[m * TN + t], acc[(TM - made + m) * TN + t], scale);
    }
}
