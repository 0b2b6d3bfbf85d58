#version 450
#include "argmax.contract.glsl"
#include "include/reduce.glsl"
#include "include/order.glsl"

// One workgroup a row. Each invocation sees its elements in rising order and keeps the first of equal ones; then the
// largest key of the workgroup, and the lowest index that has it. NaN has the lowest key of all.
void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint best = 0u, where = 0xffffffffu;
    if (p.D % 4u == 0u) {
        uint n = p.D / 4u, base = row * n;
        for (uint i = gl_LocalInvocationID.x; i < n; i += WG) {
            uvec4 v = x4[base + i];
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint key = order_key(v[j], 0u);
                bool better = key > best;
                best = better ? key : best;
                where = better ? 4u * i + j : where;
            }
        }
    } else {
        uint base = row * p.D;
        for (uint i = gl_LocalInvocationID.x; i < p.D; i += WG) {
            uint key = order_key(x[base + i], 0u);
            bool better = key > best;
            best = better ? key : best;
            where = better ? i : where;
        }
    }
    uint top = wg_max(best);
    uint first = wg_min(best == top ? where : 0xffffffffu);
    if (gl_LocalInvocationID.x == 0u) y[row] = top == 0u ? 0u : first;
}
