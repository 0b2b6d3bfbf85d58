// Float types: rows of activations may start anywhere.
#version 450
#include "matmul.contract.glsl"
#include "include/matmul_lane.glsl"

void main() { product(gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x); }
