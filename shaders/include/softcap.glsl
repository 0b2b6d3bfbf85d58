// cap * tanh(x / cap), finite everywhere; the series where 1 - e^-2t would cancel.
// Without contraction: several kernels must agree.
float soft_cap(float x, float cap) {
    precise float t = abs(x / cap), e = exp(-2.0 * min(t, 40.0));
    precise float h = t < 0.05 ? t * (1.0 - t * t * (0.33333333 - 0.13333333 * t * t)) : (1.0 - e) / (1.0 + e);
    return sign(x) * cap * h;
}
