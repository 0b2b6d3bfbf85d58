// What a row of training attention sees, and what becomes of a score: for all forms of the kernels.
#include "softcap.glsl"

const float LOWEST = -3.0e38;

// Row t sees row u: both of one sequence that begins at row first, u not behind t nor out of the window (0: none).
bool sees(uint t, uint u, uint first, uint window) { return u <= t && u >= first && (window == 0u || t - u < window); }

// The score of a product, before the softmax.
float scored(float product, float scale, float cap) {
    precise float s = product * scale;
    if (cap > 0.0) s = soft_cap(s, cap);
    return clamp(s, LOWEST, -LOWEST);
}

// Derivative of scored() with respect to the product, given its result.
float slope(float score, float scale, float cap) {
    precise float t = cap > 0.0 ? score / cap : 0.0, d = scale * (1.0 - t * t);
    return d;
}
