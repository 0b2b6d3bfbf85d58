// exp(x) for x <= 0, within 2 units in the last place down to -87, where it becomes 0; NaN gives 0. Correctly rounded
// operations only, so the bits are the same on every device.
float exp_bits(float x) {
    precise float c = clamp(x, -87.0, 0.0);
    precise float n = floor(c * 1.44269504 + 0.5);
    precise float r = c - n * 0.693359375;
    r = r - n * -2.12194440e-4;
    precise float e = 1.98412698e-4;
    e = e * r + 1.38888889e-3;
    e = e * r + 8.33333333e-3;
    e = e * r + 4.16666667e-2;
    e = e * r + 1.66666667e-1;
    e = e * r + 0.5;
    e = e * r + 1.0;
    e = e * r + 1.0;
    e = e * intBitsToFloat((int(n) + 127) << 23);
    return x >= -87.0 ? e : 0.0;
}
