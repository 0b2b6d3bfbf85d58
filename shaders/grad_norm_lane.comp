#version 450
#include "grad_norm.contract.glsl"
#define LANE 1
#define LOAD4(i) uintBitsToFloat(texelFetch(texels, int(i)))
#include "include/grad_norm_body.glsl"
