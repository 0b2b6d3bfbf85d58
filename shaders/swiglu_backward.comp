#version 450
#include "swiglu_backward.contract.glsl"
#include "include/math.glsl"

// silu'(x) = s + x s (1 - s) = s + silu(x) (1 - s), s = 1 / (1 + e^-x); finite for every finite x, NaN stays NaN.
vec4 slope(vec4 x, vec4 y) {
    vec4 s = 1.0 / (1.0 + exp(clamp(-x, vec4(-87.0), vec4(87.0))));
    return s + y * (1.0 - s);
}

#define ACTIVATION silu
#define SLOPE slope
#include "include/gated_backward.glsl"

void main() { gated_backward(); }
