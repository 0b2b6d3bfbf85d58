#version 450
#include "gemm_sum.contract.glsl"

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x, size = p.M * p.N;
    if (i >= size) return;
    float sum = 0.0;
    for (uint s = 0u; s < p.S; s++) sum += parts[s * size + i];
    uint at = p.c_offset + i / p.N * p.ldc + i % p.N;
    sum *= p.alpha;
    c[at] = p.has_base != 0u ? base[at] + sum : sum;
}
