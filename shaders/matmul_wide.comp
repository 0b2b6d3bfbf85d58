// See include/matmul_wide.glsl.
#version 450
#include "matmul_wide.contract.glsl"
#define MAXIMA 1
#include "include/matmul_wide.glsl"

void main() { product(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x); }
