// Block types: the activations are a texel buffer too, since rows start at multiples of 32 bytes.
#version 450
#include "matmul.contract.glsl"
#include "include/matmul_lane.glsl"

void main() { product(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x); }
