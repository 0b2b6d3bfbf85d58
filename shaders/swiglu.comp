#version 450
#include "swiglu.contract.glsl"
#include "include/math.glsl"
#define ACTIVATION silu
#define X4(i) x4[i]
#include "include/gated.glsl"

void main() { gated(); }
