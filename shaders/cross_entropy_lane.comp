#version 450
#include "cross_entropy.contract.glsl"
#define LOAD4(i) uintBitsToFloat(texelFetch(texels, int(i)))
#include "include/cross_entropy_body.glsl"
