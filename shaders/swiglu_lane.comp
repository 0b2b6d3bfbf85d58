#version 450
#include "swiglu.contract.glsl"
#define LANE 1
#include "include/math.glsl"
#define ACTIVATION silu
#define X4(i) uintBitsToFloat(texelFetch(x_texels, int(i)))
#include "include/gated.glsl"

void main() { gated(); }
