// Matrix product for many tokens with cooperative matrices: as matmul_tile.comp, but TM by TN is what a subgroup of SG
// invocations makes, in pieces of CM_M by CM_N, from tiles of 16-bit floats. Staged rows lie 80 bytes apart: eight of
// them begin in different groups of 16 bytes, so reading a matrix meets no bank twice. Sums go through shared memory
// once, piece by piece, since which invocation holds which element is the driver's secret.
// A piece's sum is the same sequence of products whatever the shape: bits depend on the device, not on the tile.
#version 450
#include "matmul_tile.contract.glsl"
#if COOPMAT
#extension GL_NV_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#endif
#define TILE_PAD 8u
#define TILE_PAIR TM
#include "include/tile.glsl"
#include "include/coopmat.glsl"

shared float16_t tile_w[BM * STRIDE];
shared float16_t tile_x[BN * STRIDE];
shared float pieces[WG / SG * CM_M * CM_N];

#define PUT(tile)                                                                \
    f16vec4 h = f16vec4(clamp(v, vec4(-65504.0), vec4(65504.0)));                \
    tile[at] = h.x;                                                              \
    tile[at + 1u] = h.y;                                                         \
    tile[at + 2u] = h.z;                                                         \
    tile[at + 3u] = h.w;

void put_w(uint at, vec4 v) { PUT(tile_w) }
void put_x(uint at, vec4 v) { PUT(tile_x) }

void main() {
    const uint across = BM / TM, in_m = TM / CM_M, in_n = TN / CM_N, each = CM_M * CM_N / SG;
    tile_begin();
    uint group = gl_SubgroupID, row = group % across * TM, token = group / across * TN, nb = q_blocks(p.K);
    CM_ACC acc[in_m * in_n];
    CM_LOOP (uint a = 0u; a < in_m * in_n; a++) { cm_zero(acc[a]); }

    if (AHEAD != 0u) tile_fetch(0u);
    for (uint b = 0u; b < nb; b++) {
        if (AHEAD == 0u) tile_fetch(b);
        tile_store(b);
        barrier();
        if (AHEAD != 0u && b + 1u < nb) tile_fetch(b + 1u);      // arrives while this step is computed
        CM_LOOP (uint k = 0u; k < BK; k += CM_K) {
            CM_A w_part[in_m];
            CM_LOOP (uint m = 0u; m < in_m; m++) {
                cm_load_a(w_part[m], tile_w, (row + m * CM_M) * STRIDE + k);
            }
            CM_LOOP (uint n = 0u; n < in_n; n++) {
                CM_B x_part;
                cm_load_b(x_part, tile_x, (token + n * CM_N) * STRIDE + k);
                CM_LOOP (uint m = 0u; m < in_m; m++) {
                    cm_mul_add(w_part[m], x_part, acc[m * in_n + n]);
                }
            }
        }
        barrier();
    }

    tile_end();
    const uint made = ACT == 0u ? in_m : in_m / 2u;
    uint own = group * CM_M * CM_N, column = row / (ACT == 0u ? 1u : 2u);
    CM_LOOP (uint n = 0u; n < in_n; n++)
        CM_LOOP (uint m = 0u; m < made; m++) {
            float sums[each], ups[each];
            cm_store(acc[m * in_n + n], pieces, own);
            subgroupBarrier();
            CM_LOOP (uint e = 0u; e < each; e++) sums[e] = pieces[own + e * SG + gl_SubgroupInvocationID];
            subgroupBarrier();
            if (ACT != 0u) {
                cm_store(acc[(in_m - made + m) * in_n + n], pieces, own);
                subgroupBarrier();
                CM_LOOP (uint e = 0u; e < each; e++) ups[e] = pieces[own + e * SG + gl_SubgroupInvocationID];
                subgroupBarrier();
            }
            CM_LOOP (uint e = 0u; e < each; e++) {
                uint flat_ = e * SG + gl_SubgroupInvocationID, t = token + n * CM_N + flat_ / CM_M;
                tile_write(column + m * CM_M + flat_ % CM_M, t, sums[e], ACT == 0u ? 0.0 : ups[e], token_scale(t));
            }
        }
}
