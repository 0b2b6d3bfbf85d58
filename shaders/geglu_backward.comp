#version 450
#include "geglu_backward.contract.glsl"
#include "include/math.glsl"

// With 2u = 2 sqrt(2/pi) (x + 0.044715 x^3) and s = 1 / (1 + e^-2u), gelu(x) = x s and
// gelu'(x) = s + x s (1 - s) (2u)' = s + gelu(x) (1 - s) (2u)'. Beyond +-16 s is 0 or 1, whatever the cube is.
vec4 slope(vec4 x, vec4 y) {
    vec4 c = clamp(x, vec4(-16.0), vec4(16.0)), square = 0.044715 * c * c;
    vec4 u2 = 1.5957691216057308 * c * (1.0 + square);
    vec4 s = 1.0 / (1.0 + exp(clamp(-u2, vec4(-87.0), vec4(87.0))));
    return s + y * ((1.0 - s) * (1.5957691216057308 * (1.0 + 3.0 * square)));
}

#define ACTIVATION gelu
#define SLOPE slope
#include "include/gated_backward.glsl"

void main() { gated_backward(); }
