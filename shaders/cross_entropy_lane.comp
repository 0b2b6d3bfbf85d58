#version 450
#include "cross_entropy.contract.glsl"
#define LANE 1
#define LOAD4(i) uintBitsToFloat(texelFetch(texels, int(i)))
#include "include/cross_entropy_body.glsl"
