// The weight types and where their planes lie in a row; `QTYPE` names the type a shader variant is for.
// Layout and exact meaning: flux_vk/formats/layout.py. Offsets and strides are bytes, all multiples of 16.
#define F32 0
#define F16 1
#define BF16 2
#define Q4_0 3
#define Q4_1 4
#define Q5_0 5
#define Q5_1 6
#define Q8_0 7
#define Q2_K 8
#define Q3_K 9
#define Q4_K 10
#define Q5_K 11
#define Q6_K 12
#define IQ4_NL 13
#define IQ4_XS 14

#define Q_FLOAT (QTYPE <= BF16)
#define Q_LEVELS (QTYPE == IQ4_NL || QTYPE == IQ4_XS)     // a nibble is an index into a table of levels
#define Q_HAS_NIBBLES (QTYPE != Q8_0 && QTYPE != Q2_K && QTYPE != Q3_K && !Q_FLOAT)
#define Q_HAS_QH (QTYPE == Q5_0 || QTYPE == Q5_1 || QTYPE == Q5_K || QTYPE == Q3_K)
#define Q_HAS_Q2 (QTYPE == Q2_K || QTYPE == Q3_K || QTYPE == Q6_K)
#define Q_HALVES (QTYPE == Q2_K || QTYPE == Q3_K || QTYPE == Q6_K)  // weights 0-15 and 16-31 have scales of their own
#define Q_SUPER (QTYPE == Q2_K || QTYPE == Q3_K || QTYPE == Q4_K || QTYPE == Q5_K || QTYPE == Q6_K || QTYPE == IQ4_XS)
#define Q_MIN (QTYPE == Q4_1 || QTYPE == Q5_1 || QTYPE == Q2_K || QTYPE == Q4_K || QTYPE == Q5_K)

// What the stored unsigned byte of a weight is above its signed value.
#if QTYPE == Q4_0
#define Q_BIAS 8.0
#elif QTYPE == Q5_0
#define Q_BIAS 16.0
#elif QTYPE == Q8_0
#define Q_BIAS 128.0
#elif QTYPE == Q3_K
#define Q_BIAS 4.0
#elif QTYPE == Q6_K
#define Q_BIAS 32.0
#else
#define Q_BIAS 0.0
#endif

#define Q_A16(bytes) (((bytes) + 15u) & ~15u)

uint q_blocks(uint k) { return (k + 31u) >> 5; }                 // sub-blocks of 32 in a row

uint q_qh_at(uint nb) { return QTYPE == Q3_K ? Q_A16(nb * 8u) : nb * 16u; }

uint q_q2_at(uint nb) { return QTYPE == Q6_K ? nb * 16u : 0u; }

// First plane of scales: d, dm, sm or sc.
uint q_scales_at(uint nb) {
#if QTYPE == Q8_0
    return nb * 32u;
#elif QTYPE == Q5_0 || QTYPE == Q5_1 || QTYPE == Q5_K
    return nb * 16u + Q_A16(nb * 4u);
#elif QTYPE == Q6_K
    return nb * 16u + Q_A16(nb * 8u);
#elif QTYPE == Q2_K
    return Q_A16(nb * 8u);
#elif QTYPE == Q3_K
    return Q_A16(nb * 8u) + Q_A16(nb * 4u);
#else
    return nb * 16u;
#endif
}

// d or dm of the groups of 256.
uint q_super_at(uint nb) { return q_scales_at(nb) + Q_A16(nb * (QTYPE == IQ4_XS ? 1u : 2u)); }

uint q_stride(uint k) {
    uint nb = q_blocks(k);
#if QTYPE == F32
    return Q_A16(k * 4u);
#elif Q_FLOAT
    return Q_A16(k * 2u);
#elif Q_SUPER
    return q_super_at(nb) + Q_A16((nb >> 3) * (Q_MIN ? 4u : 2u));
#else
    return q_scales_at(nb) + Q_A16(nb * (Q_MIN ? 4u : 2u));
#endif
}

// Four unsigned bytes.
vec4 q_bytes(uint v) {
    return vec4(float(v & 0xffu), float((v >> 8) & 0xffu), float((v >> 16) & 0xffu), float(v >> 24));
}

// The sixteen levels of iq4_nl and iq4_xs, four int8 to a word.
float q_level(uint i) {
    uint word = i < 8u ? (i < 4u ? 0xbfad9881u : 0xf6eaddcfu) : (i < 12u ? 0x26190d01u : 0x71594535u);
    return float(int(word << (24u - 8u * (i & 3u))) >> 24);
}
