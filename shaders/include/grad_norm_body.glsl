// Body of grad_norm; LOAD4(i) is vector i of the gradients.
#include "pair_sum.glsl"
#include "stretch.glsl"

// A workgroup a part. Each invocation has four running sums, and what was lost by rounding in each.
void main() {
    uint part = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    if (part >= p.N) return;
    uint whole = p.P / 4u, first = min(part * p.run, whole), items = (p.run + WG - 1u) / WG;
    uint end = min(min(first + p.run, whole), first + stretch_end(t, items));
    precise vec4 sum = vec4(0.0), lost = vec4(0.0);
    for (uint i = first + stretch_begin(t, items); i < end; i += STRETCH_STEP) {
        vec4 v = LOAD4(i);
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
