#version 450
#include "swiglu_backward.contract.glsl"
#define X4(i) x4[i]
#define G4(i) g4[i]
#include "include/swiglu_backward_body.glsl"

void main() { gated_backward(); }
