#version 450
#include "adamw.contract.glsl"
#define LANE 1
#define LOAD4(array, i) uintBitsToFloat(texelFetch(array##_texels, int(i)))
#include "include/adamw_body.glsl"
