#version 450
#include "top_k_blocks.contract.glsl"
#include "include/order.glsl"

// The largest key (see order.glsl, NaN lowest) of each block of 64 elements of a row, one block an invocation. Indices past
// the row's end are moved to its last element, which changes no maximum.
void main() {
    uint block = gl_GlobalInvocationID.x;
    if (block >= p.NB) return;
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        uint best = 0u;
        if (p.D % 4u == 0u) {
            uint n = p.D / 4u, base = row * n;
            for (uint i = 0u; i < 16u; i++) {
                uvec4 v = x4[base + min(16u * block + i, n - 1u)];
                best = max(best, max(max(order_key(v.x, 0u), order_key(v.y, 0u)), max(order_key(v.z, 0u), order_key(v.w, 0u))));
            }
        } else {
            for (uint i = 0u; i < 64u; i++)
                best = max(best, order_key(x[row * p.D + min(64u * block + i, p.D - 1u)], 0u));
        }
        maxima[row * p.NB + block] = best;
    }
}
