#version 450
#include "swiglu.contract.glsl"
#include "include/math.glsl"
#define ACTIVATION silu
#include "include/gated.glsl"

void main() { gated(); }
