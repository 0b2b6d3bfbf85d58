// Activation functions that stay finite where their limits are finite.

// exp() that reaches zero: some drivers clamp the argument, so that exp(-inf) is not 0 there.
float exp_zero(float x) { return x < -87.3 ? 0.0 : exp(x); }
vec4 exp_zero(vec4 x) { return mix(exp(x), vec4(0.0), lessThan(x, vec4(-87.3))); }

// x / (1 + e^-x), and zero where that is below 1e-36; the exponent is clamped to stay finite. NaN stays NaN.
float silu(float x) { return x < -88.0 ? 0.0 : x / (1.0 + exp(min(-x, 88.0))); }
vec4 silu(vec4 x) { return mix(x / (1.0 + exp(min(-x, vec4(88.0)))), vec4(0.0), lessThan(x, vec4(-88.0))); }

// GELU in its tanh form: 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3).
// x^3 is taken of x clamped to +-16, where tanh(u) is already +-1 in 32 bits.
float gelu(float x) {
    float c = clamp(x, -16.0, 16.0);
    float u2 = 1.5957691216057308 * c * (1.0 + 0.044715 * c * c);
    return x < -16.0 ? 0.0 : x / (1.0 + exp(min(-u2, 88.0)));
}
vec4 gelu(vec4 x) {
    vec4 c = clamp(x, vec4(-16.0), vec4(16.0));
    vec4 u2 = 1.5957691216057308 * c * (1.0 + 0.044715 * c * c);
    return mix(x / (1.0 + exp(min(-u2, vec4(88.0)))), vec4(0.0), lessThan(x, vec4(-16.0)));
}
