// How chunks of a context become one result: for both forms of attention, so that their definition stands once.

// What is known of one head after some chunks: the largest score, the sum of the weights relative to it. fold() takes one
// more chunk (its maximum, its sum) in and returns the factors of the values so far and of the chunk's.
struct Fold {
    float top;
    float total;
};

vec2 fold(inout Fold f, float top, float total) {
    precise float high = max(f.top, top);
    precise vec2 by = vec2(exp(f.top - high), exp(top - high));
    precise float sum = fma(total, by.y, f.total * by.x);
    f.top = high;
    f.total = sum;
    return by;
}

vec4 fold_values(vec4 before, vec4 chunk, vec2 by) {
    precise vec4 sum = fma(chunk, vec4(by.y), before * by.x);
    return sum;
}

vec4 normalised(vec4 sum, float total) {
    precise float inverse = 1.0 / total;
    precise vec4 y = sum * inverse;
    return total > 0.0 ? y : vec4(0.0);
}
