#version 450
#include "sgd.contract.glsl"
#define LANE 1
#define LOAD4(array, i) uintBitsToFloat(texelFetch(array##_texels, int(i)))
#include "include/sgd_body.glsl"
