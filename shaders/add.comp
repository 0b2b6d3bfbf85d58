#version 450
#include "add.contract.glsl"
#define OP(u, v) ((u) + (v))
#include "include/binary.glsl"

void main() { binary(); }
