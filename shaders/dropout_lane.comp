#version 450
#include "dropout.contract.glsl"
#define LANE 1
#define X4(i) texelFetch(x_texels, int(i))
#define Y4(i) texelFetch(y_texels, int(i))
#include "include/dropout_body.glsl"
