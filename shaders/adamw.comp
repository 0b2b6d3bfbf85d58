#version 450
#include "adamw.contract.glsl"
#define LOAD4(array, i) array##4[i]
#include "include/adamw_body.glsl"
