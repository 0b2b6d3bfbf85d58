#version 450
#include "geglu_backward.contract.glsl"
#define LANE 1
#define X4(i) uintBitsToFloat(texelFetch(x_texels, int(i)))
#define G4(i) uintBitsToFloat(texelFetch(g_texels, int(i)))
#include "include/geglu_backward_body.glsl"

void main() { gated_backward(); }
