// Natural logarithm of a normal positive float, relative error about 1e-7.
float log_pos(float x) {
    int b = floatBitsToInt(x);
    int ex = (b - 0x3F3504F3) >> 23;
    float m = intBitsToFloat(b - (ex << 23));
    float s = (m - 1.0) / (m + 1.0);
    float z = s * s;
    float t = 2.0 * s * (1.0 + z * (0.333333333 + z * (0.2 + z * (0.142857143 + z * 0.111111111))));
    return float(ex) * 0.693147181 + t;
}
