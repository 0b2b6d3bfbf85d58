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

#if Q_SUPER
// How many weights one scale serves, and the levels it multiplies: 0..FIT_TOP with an offset, or FIT_LOW..FIT_TOP without one.
#if QTYPE == Q4_K
#define FIT_COUNT 32u
#define FIT_TOP 15.0
#define FIT_SCALES 63.0              // largest stored scale and offset
#elif QTYPE == Q5_K
#define FIT_COUNT 32u
#define FIT_TOP 31.0
#define FIT_SCALES 63.0
#elif QTYPE == Q2_K
#define FIT_COUNT 16u
#define FIT_TOP 3.0
#define FIT_SCALES 15.0
#elif QTYPE == Q6_K
#define FIT_COUNT 16u
#define FIT_LOW (-32.0)
#define FIT_TOP 31.0
#define FIT_SCALES 128.0             // stored scales are -128..127
#elif QTYPE == Q3_K
#define FIT_COUNT 16u
#define FIT_LOW (-4.0)
#define FIT_TOP 3.0
#define FIT_SCALES 32.0
#endif
#endif

#if Q_SUPER && Q_MIN
// What a fit x ~ scale * level + low, with low <= 0, of some weights has found.
struct Affine {
    float scale, low;
};

float affine_level(float x, Affine f) {
    return f.scale > 0.0 ? clamp(nearest((x - f.low) / f.scale), 0.0, FIT_TOP) : 0.0;
}

float affine_error(float v[FIT_COUNT], Affine f) {
    float e = 0.0;
    float inverse = f.scale > 0.0 ? 1.0 / f.scale : 0.0;
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) {
        float x = v[i], r = f.scale * clamp(nearest((x - f.low) * inverse), 0.0, FIT_TOP) + f.low - x;
        e += r * r;
    }
    return e;
}

// The best scale and offset for the levels that `start` gives: the normal equations of all points.
Affine affine_refit(float v[FIT_COUNT], Affine start) {
    float q1 = 0.0, q2 = 0.0, x1 = 0.0, qx = 0.0, inverse = 1.0 / start.scale;
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) {
        float x = v[i], q = clamp(nearest((x - start.low) * inverse), 0.0, FIT_TOP);
        q1 += q;
        q2 += q * q;
        x1 += x;
        qx += q * x;
    }
    float n = float(FIT_COUNT), det = n * q2 - q1 * q1;
    Affine f = Affine(0.0, 0.0);
    if (det > 0.0) f = Affine((n * qx - x1 * q1) / det, (q2 * x1 - q1 * qx) / det);
    if (f.low > 0.0 || det <= 0.0) f = Affine(q2 > 0.0 ? qx / q2 : 0.0, 0.0);
    return f;
}

Affine affine_fit(float v[FIT_COUNT]) {
    float low = 0.0, high = v[0];
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) {
        low = min(low, v[i]);
        high = max(high, v[i]);
    }
    Affine best = Affine(max(high - low, 0.0) / FIT_TOP, low);
    if (best.scale == 0.0) return best;                  // all weights are the same value, not above 0
    float range = high - low, least = affine_error(v, best);
    for (int step = -12; step <= 24; step++) {           // from spending levels beyond the range to cutting it off
        Affine f = affine_refit(v, Affine(range / (FIT_TOP + 0.1 * float(step)), low));
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

// The stored scale and offset for a fit in units of d and m: those beside the rounded ones may fit the weights better.
vec2 affine_stored(float v[FIT_COUNT], Affine f, float d, float m) {
    vec2 start = vec2(d > 0.0 ? nearest(f.scale / d) : 0.0, m > 0.0 ? nearest(-f.low / m) : 0.0), best = start;
    float least = 3.4e38;
    for (float ds = -2.0; ds <= 2.0; ds += 1.0)
        for (float dl = -2.0; dl <= 2.0; dl += 1.0) {
            vec2 at = clamp(start + vec2(ds, dl), 0.0, FIT_SCALES);
            float e = affine_error(v, Affine(d * at.x, -m * at.y));
            if (e < least) {
                least = e;
                best = at;
            }
        }
    return best;
}
#endif

#if Q_SUPER && !Q_MIN
// Levels without an offset, x ~ scale * level.
float signed_level(float x, float inverse) { return clamp(nearest(x * inverse), FIT_LOW, FIT_TOP); }

float signed_error(float v[FIT_COUNT], float scale) {
    float e = 0.0, inverse = scale != 0.0 ? 1.0 / scale : 0.0;
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) {
        float r = scale * signed_level(v[i], inverse) - v[i];
        e += r * r;
    }
    return e;
}

float signed_refit(float v[FIT_COUNT], float scale) {
    float q2 = 0.0, qx = 0.0, inverse = 1.0 / scale;
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) {
        float q = signed_level(v[i], inverse);
        q2 += q * q;
        qx += q * v[i];
    }
    return q2 > 0.0 ? qx / q2 : 0.0;
}

float signed_fit(float v[FIT_COUNT]) {
    float most = 0.0;
    [[unroll]] for (uint i = 0u; i < FIT_COUNT; i++) most = abs(v[i]) > abs(most) ? v[i] : most;
    if (most == 0.0) return 0.0;
    float best = most / FIT_LOW, least = signed_error(v, best);
    for (int step = -16; step <= 16; step++) {           // the largest weight near the lowest level, then the highest
        float levels = step <= 0 ? FIT_LOW - 0.12 * float(step + 8) : FIT_TOP + 0.12 * float(step - 8);
        float s = signed_refit(v, most / levels);
        if (s == 0.0) continue;
        float e = signed_error(v, s);
        if (e < least) {
            least = e;
            best = s;
        }
    }
    return best;
}

// The stored scale in units of d; as affine_stored.
float signed_stored(float v[FIT_COUNT], float own, float d) {
    float s0 = d != 0.0 ? nearest(own / d) : 0.0, best = clamp(s0, -FIT_SCALES, FIT_SCALES - 1.0), least = 3.4e38;
    for (float ds = -2.0; ds <= 2.0; ds += 1.0) {
        float at = clamp(s0 + ds, -FIT_SCALES, FIT_SCALES - 1.0), e = signed_error(v, d * at);
        if (e < least) {
            least = e;
            best = at;
        }
    }
    return best;
}
#endif
