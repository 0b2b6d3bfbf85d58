#version 450
#include "geglu.contract.glsl"
#include "include/math.glsl"
#define ACTIVATION gelu
#include "include/gated.glsl"

void main() { gated(); }
