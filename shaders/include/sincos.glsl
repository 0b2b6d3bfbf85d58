// Sine and cosine of an angle given as a 2^-32 fraction of a turn, with the same bits on every device: integer range
// reduction to +-1/8 turn, then polynomials (least maximum error on +-pi/4, fitted for this file) without contraction.
// Absolute error below 6e-8. Also for signed fractions: the integer wraps like the angle.

const float RADIANS_27 = 4.681337853654911e-08;  // 2 pi / 2^27

void sincos_turns(uvec4 turns, out vec4 sine, out vec4 cosine) {
    uvec4 quadrant = (turns + 0x20000000u) >> 30u;
    ivec4 rest = ivec4(turns - (quadrant << 30u));             // -2^29 .. 2^29: an eighth of a turn to each side
    precise vec4 a = vec4((rest + 16) >> 5) * RADIANS_27;      // 25 bits shortened to what a float holds exactly
    precise vec4 z = a * a;
    precise vec4 s = a + a * z * (-0.16666651 + z * (0.00833198 + z * -0.00019496));
    precise vec4 c = (1.0 - 0.5 * z) + z * z * (0.0416666469 + z * (-0.00138873675 + z * 2.44384516e-05));
    bvec4 swap = equal(quadrant & 1u, uvec4(1u));
    sine = mix(s, c, swap);
    cosine = mix(c, s, swap);
    sine = mix(sine, -sine, greaterThanEqual(quadrant, uvec4(2u)));
    cosine = mix(cosine, -cosine, equal((quadrant + 1u) & 2u, uvec4(2u)));
}

void sincos_turns(uint turns, out float sine, out float cosine) {
    vec4 s, c;
    sincos_turns(uvec4(turns), s, c);
    sine = s.x;
    cosine = c.x;
}
