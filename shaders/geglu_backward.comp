#version 450
#include "geglu_backward.contract.glsl"
#define X4(i) x4[i]
#define G4(i) g4[i]
#include "include/geglu_backward_body.glsl"

void main() { gated_backward(); }
