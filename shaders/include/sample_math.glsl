// Numbers of the sampler: ordered keys of floats, 64-bit integers as (low, high) pairs, and an exp and a log that
// give the same bits on every device. Probability masses are integers (units of 2^-40 of the most likely token's), so
// that sums do not depend on the order of summation and every way to select gives the same token.

#include "exp_bits.glsl"
#include "log_pos.glsl"

// Words of one slot's parameters; flux_vk/decode/state.py packs them in this order.
const uint P_TOP_K = 0u;        // 0: off
const uint P_TOP_P = 1u;        // fixed point, 2^32 = 1; P_OFF: off
const uint P_MIN_P = 2u;        // float, ln(min_p); -inf: off
const uint P_INV_TEMP = 3u;     // float, 1 / temperature; 0: greedy
const uint P_REPEAT = 4u;       // float
const uint P_INV_REPEAT = 5u;   // float
const uint P_FREQUENCY = 6u;    // float
const uint P_PRESENCE = 7u;     // float
const uint P_LAST_N = 8u;       // 0: no penalties
const uint P_BIAS_COUNT = 9u;
const uint P_LOGPROBS = 10u;    // alternatives reported for each token; 0: none
const uint P_SEED_LO = 11u;
const uint P_SEED_HI = 12u;
const uint P_WORDS = 16u;
const uint P_OFF = 0xFFFFFFFFu;

const uint TOP_MAX = 20u;       // alternatives reported at most
const uint TOP_WORDS = 42u;     // count, log-probability (or logsumexp), then pairs (id, log-probability)

const uint CAP = 512u;          // entries of the short list of candidates

#include "logit_key.glsl"

uvec4 keys_of(vec4 x) {
    return uvec4(key_of(x.x), key_of(x.y), key_of(x.z), key_of(x.w));
}

float value_of(uint key) {
    return uintBitsToFloat((key & 0x80000000u) != 0u ? (key & 0x7FFFFFFFu) : ~key);
}

// exp(x) for x <= 0, within 2 units in the last place; 0 below -30.
float exp_neg(float x) { return x < -30.0 ? 0.0 : exp_bits(x); }

// The mass of exp(d), d <= 0, as two parts of 20 bits (high, low): up to 2048 of each can be added in 32 bits.
uvec2 mass_parts(float d) {
    precise float scaled = exp_neg(d) * 1048576.0;
    int hi = int(scaled);
    precise float rest = (scaled - float(hi)) * 1048576.0;
    return uvec2(uint(hi), uint(int(rest)));
}

// 64-bit unsigned integers: x the low word, y the high word.
uvec2 add64(uvec2 a, uvec2 b) {
    uint carry;
    uint lo = uaddCarry(a.x, b.x, carry);
    return uvec2(lo, a.y + b.y + carry);
}

uvec2 sub64(uvec2 a, uvec2 b) {
    uint borrow;
    uint lo = usubBorrow(a.x, b.x, borrow);
    return uvec2(lo, a.y - b.y - borrow);
}

bool less64(uvec2 a, uvec2 b) {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// Sums of mass parts (high, low) to one 64-bit integer.
uvec2 parts64(uvec2 hl) {
    return add64(uvec2(hl.x << 20, hl.x >> 12), uvec2(hl.y, 0u));
}

// a times b, b of 32 bits; the product must fit into 64.
uvec2 mul64(uvec2 a, uint b) {
    uint hi, lo;
    umulExtended(a.x, b, hi, lo);
    return uvec2(lo, hi + a.y * b);
}

// ceil(a * b / 2^32), at least 1.
uvec2 share64(uvec2 a, uint b) {
    uint h0, l0, h1, l1;
    umulExtended(a.x, b, h0, l0);
    umulExtended(a.y, b, h1, l1);
    uvec2 r = add64(add64(uvec2(l1, h1), uvec2(h0, 0u)), uvec2(l0 != 0u ? 1u : 0u, 0u));
    return (r.x | r.y) == 0u ? uvec2(1u, 0u) : r;
}

// floor(a * b / 2^64).
uvec2 mulhi64(uvec2 a, uvec2 b) {
    uint h00, l00, h01, l01, h10, l10, h11, l11;
    umulExtended(a.x, b.x, h00, l00);
    umulExtended(a.x, b.y, h01, l01);
    umulExtended(a.y, b.x, h10, l10);
    umulExtended(a.y, b.y, h11, l11);
    uvec2 mid = add64(add64(uvec2(l01, 0u), uvec2(l10, 0u)), uvec2(h00, 0u));
    return add64(add64(uvec2(l11, h11), uvec2(h01, 0u)), add64(uvec2(h10, 0u), uvec2(mid.y, 0u)));
}
