#version 450
#include "swiglu_backward.contract.glsl"
#define LANE 1
#define X4(i) uintBitsToFloat(texelFetch(x_texels, int(i)))
#define G4(i) uintBitsToFloat(texelFetch(g_texels, int(i)))
#include "include/swiglu_backward_body.glsl"

void main() { gated_backward(); }
