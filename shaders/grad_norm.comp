#version 450
#include "grad_norm.contract.glsl"
#define LOAD4(i) g4[i]
#include "include/grad_norm_body.glsl"
