// Rows of an embedding table by token id: a thread unpacks eight weights.
#version 450
#include "embed.contract.glsl"
#include "include/quant.glsl"
#include "include/quant_out.glsl"

void main() {
    uint unit = gl_GlobalInvocationID.x, b = unit >> 2, i = unit & 3u;
    uint r = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    if (r >= p.R || b >= q_blocks(p.D)) return;
    uint row = ids[r] - p.n0;                            // wraps for ids in front of the window
    if (row >= p.V) return;
    vec4 low, high;
    q_weights(q_read(row * (q_stride(p.D) >> 2), p.D, b, i), low, high);
    q_write(r * p.D, p.D, b, i, low * p.scale, high * p.scale);
}
