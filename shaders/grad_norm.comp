#version 450
#include "grad_norm.contract.glsl"
#include "include/pair_sum.glsl"

// A workgroup a part. Each invocation has four running sums, and what was lost by rounding in each.
void main() {
    uint part = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    if (part >= p.N) return;
    uint whole = p.P / 4u, begin = min(part * p.run, whole), end = min(begin + p.run, whole);
    precise vec4 sum = vec4(0.0), lost = vec4(0.0);
    for (uint i = begin + t; i < end; i += WG) {
        vec4 v = g4[i];
        precise vec4 more = v * v - lost;
        precise vec4 next = sum + more;
        lost = (next - sum) - more;
        sum = next;
    }
    // Up to three elements behind the last whole vector are where a vector of them would be.
    bool last = part == whole / max(p.run, 1u);
    if (last && t < p.P % 4u) sum.x += g[4u * whole + t] * g[4u * whole + t];
    sum -= lost;
    float all = pair_sum((sum.x + sum.y) + (sum.z + sum.w));
    if (t == 0u) parts[part] = all;
}
