// Floats as unsigned integers that compare in the same order, free of what a driver does with NaN, -0 or subnormals.

const uint KEY_NEG_INF = 0x007fffffu;
const uint KEY_POS_INF = 0xff800000u;

bool bits_nan(uint bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

// -Inf < ... < -0 == +0 < ... < +Inf; a NaN gets the key `nan_key` (0 is below all numbers, 0xffffffff above).
uint order_key(uint bits, uint nan_key) {
    bits = bits == 0x80000000u ? 0u : bits;
    uint key = (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
    return bits_nan(bits) ? nan_key : key;
}

// The inverse of order_key; the keys 0 and 0xffffffff give NaN.
uint order_bits(uint key) { return (key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key; }
