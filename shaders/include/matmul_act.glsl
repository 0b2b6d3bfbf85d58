// The gated activation that a matrix product may end with, chosen by the constant ACT: 1 SiLU, 2 GELU (tanh form).
#include "include/math.glsl"

float activation(float v) { return ACT == 1u ? silu(v) : gelu(v); }
