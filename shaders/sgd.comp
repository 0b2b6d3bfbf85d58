#version 450
#include "sgd.contract.glsl"
#define LOAD4(array, i) array##4[i]
#include "include/sgd_body.glsl"
