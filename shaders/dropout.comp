#version 450
#include "dropout.contract.glsl"
#define X4(i) x4[i]
#define Y4(i) y4[i]
#include "include/dropout_body.glsl"
