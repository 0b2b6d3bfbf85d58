#version 450
#include "geglu.contract.glsl"
#include "include/math.glsl"
#define ACTIVATION gelu
#define X4(i) x4[i]
#include "include/gated.glsl"

void main() { gated(); }
