// Fitting block formats to 32 weights of a thread: scales by least squares, over several starting points.

// float16 bits of v, rounded to nearest even (packHalf2x16 may truncate); too large ones become infinite.
uint half_bits(float v) {
    uint u = floatBitsToUint(v), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a >= 0x47800000u) return sign | 0x7c00u;
    if (a < 0x38800000u) return sign | uint(roundEven(uintBitsToFloat(a) * 16777216.0));
    a += 0xfffu + ((a >> 13) & 1u);
    return sign | ((a - 0x38000000u) >> 13);
}

float half_value(uint bits) { return unpackHalf2x16(bits).x; }

float nearest(float v) { return floor(v + 0.5); }

// What a fit of levels 0..15, x ~ scale * level + low with low <= 0, has found.
struct Affine {
    float scale, low;
};

float affine_level(float x, Affine f) { return f.scale > 0.0 ? clamp(nearest((x - f.low) / f.scale), 0.0, 15.0) : 0.0; }

float affine_error(float v[32], Affine f) {
    float e = 0.0;
    float inverse = f.scale > 0.0 ? 1.0 / f.scale : 0.0;
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        float r = f.scale * clamp(nearest((v[i] - f.low) * inverse), 0.0, 15.0) + f.low - v[i];
        e += r * r;
    }
    return e;
}

// The best scale and offset for the levels that `start` gives: the normal equations of 32 points.
Affine affine_refit(float v[32], Affine start) {
    float q1 = 0.0, q2 = 0.0, x1 = 0.0, qx = 0.0, inverse = 1.0 / start.scale;
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        float q = clamp(nearest((v[i] - start.low) * inverse), 0.0, 15.0);
        q1 += q;
        q2 += q * q;
        x1 += v[i];
        qx += q * v[i];
    }
    float det = 32.0 * q2 - q1 * q1;
    Affine f = Affine(0.0, 0.0);
    if (det > 0.0) f = Affine((32.0 * qx - x1 * q1) / det, (q2 * x1 - q1 * qx) / det);
    if (f.low > 0.0 || det <= 0.0) f = Affine(q2 > 0.0 ? qx / q2 : 0.0, 0.0);
    return f;
}

Affine affine_fit(float v[32]) {
    float low = 0.0, high = v[0];
    [[unroll]] for (uint i = 0u; i < 32u; i++) {
        low = min(low, v[i]);
        high = max(high, v[i]);
    }
    Affine best = Affine(max(high - low, 0.0) / 15.0, low);
    if (best.scale == 0.0) return best;                  // all weights are the same value, not above 0
    float range = high - low, least = affine_error(v, best);
    for (int step = -12; step <= 24; step++) {           // from spending levels beyond the range to cutting it off
        Affine f = affine_refit(v, Affine(range / (15.0 + 0.1 * float(step)), low));
        if (f.scale <= 0.0) continue;
        f = affine_refit(v, f);
        if (f.scale <= 0.0) continue;
        float e = affine_error(v, f);
        if (e < least) {
            least = e;
            best = f;
        }
    }
    return best;
}

// Levels -32..31 of weights first..first+15, x ~ scale * level.
float signed_level(float x, float inverse) { return clamp(nearest(x * inverse), -32.0, 31.0); }

float signed_error(float v[32], uint first, float scale) {
    float e = 0.0, inverse = scale != 0.0 ? 1.0 / scale : 0.0;
    [[unroll]] for (uint i = 0u; i < 16u; i++) {
        float r = scale * signed_level(v[first + i], inverse) - v[first + i];
        e += r * r;
    }
    return e;
}

float signed_refit(float v[32], uint first, float scale) {
    float q2 = 0.0, qx = 0.0, inverse = 1.0 / scale;
    [[unroll]] for (uint i = 0u; i < 16u; i++) {
        float q = signed_level(v[first + i], inverse);
        q2 += q * q;
        qx += q * v[first + i];
    }
    return q2 > 0.0 ? qx / q2 : 0.0;
}

float signed_fit(float v[32], uint first) {
    float most = 0.0;
    [[unroll]] for (uint i = 0u; i < 16u; i++) most = abs(v[first + i]) > abs(most) ? v[first + i] : most;
    if (most == 0.0) return 0.0;
    float best = most / -32.0, least = signed_error(v, first, best);
    for (int step = -16; step <= 16; step++) {           // the largest weight near -32, then near 31
        float levels = step <= 0 ? -32.0 - 0.12 * float(step + 8) : 31.0 + 0.12 * float(step - 8);
        float s = signed_refit(v, first, most / levels);
        if (s == 0.0) continue;
        float e = signed_error(v, first, s);
        if (e < least) {
            least = e;
            best = s;
        }
    }
    return best;
}
