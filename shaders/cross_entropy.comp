#version 450
#include "cross_entropy.contract.glsl"
#define LOAD4(i) x4[i]
#include "include/cross_entropy_body.glsl"
