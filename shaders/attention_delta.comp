// One invocation a head of a row.
#version 450
#include "attention_delta.contract.glsl"

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x;
    if (i >= p.n) return;
    uint from = i * (HEAD_DIM / 4u);
    vec4 sum = vec4(0.0);
    for (uint c = 0u; c < HEAD_DIM / 4u; c++) sum = fma(y4[from + c], dy4[from + c], sum);
    delta[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
