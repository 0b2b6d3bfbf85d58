// A weight matrix as float32: a thread unpacks eight weights.
#version 450
#include "dequantize.contract.glsl"
#include "include/quant.glsl"
#include "include/quant_out.glsl"

void main() {
    uint unit = gl_GlobalInvocationID.x, b = unit >> 2, i = unit & 3u;
    uint n = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    if (n >= p.N || b >= q_blocks(p.K)) return;
    vec4 low, high;
    q_weights(q_read(n * (q_stride(p.K) >> 2), p.K, b, i), low, high);
    q_write((p.n0 + n) * p.K, p.K, b, i, low, high);
}
