// What a program finds in its registers, and what becomes of its result. Behind flux_vm.glsl.

// A row as the kernels hand it on.
struct FluxRow {
    uint n;             // candidates
    float best;         // largest logit
    float entropy;      // of the whole distribution, nats
    float lse;          // natural logarithm of the sum of exp(logit)
    uint position;      // of the token to be drawn
    uvec2 seed;
    uint slot;
};

// A lowered program: where it lies and what does not change from candidate to candidate.
struct FluxProgram {
    uint code;          // texel of its first word
    bool in_use;
    bool by_float;      // the result is F0
    uint bytes;         // of code
    uint first;         // slot that it begins at
    uvec4 constants[8]; // R0-15, F0-15
};

struct FluxResult {
    float score;
    FluxState state;
};

FluxRow flux_row_facts(uvec4 a, uvec4 b) {
    return FluxRow(a.x, uintBitsToFloat(a.y), uintBitsToFloat(a.z), uintBitsToFloat(a.w), b.x, b.yz, b.w);
}

FluxProgram flux_program(uint code) {
    uvec4 head = flux_code(code);
    FluxProgram f;
    f.code = code;
    f.in_use = flux_has(head.x, FLUX_IN_USE);
    f.by_float = flux_has(head.x, FLUX_RESULT_F0);
    f.bytes = head.y;
    f.first = head.z;
    for (uint i = 0u; i < 8u; i++) f.constants[i] = flux_code(code + 2u + i);
    flux_r[FLUX_R_ZERO] = 0u;   // no entry writes it
    return f;
}

// Each register is written once: a store into an array is dear on CPU drivers. R10 is left to RANDOM.
void flux_enter(FluxProgram f, FluxRow row, uvec4 cand, uint rank) {
    float logit = uintBitsToFloat(cand.y), share = exp_bits(logit - row.lse);
    flux_r[0] = uint(flux_q16(logit));
    flux_r[1] = row.position;
    flux_r[2] = cand.z;
    flux_r[3] = cand.x;
    flux_r[4] = rank;
    flux_r[5] = row.n;
    flux_r[6] = uint(flux_q16(share));
    flux_r[7] = cand.w;
    flux_r[8] = f.constants[2].x;
    flux_r[9] = f.constants[2].y;
    flux_r[11] = f.constants[2].w;
    for (uint i = 12u; i < 16u; i++) flux_r[i] = f.constants[3][i & 3u];
    flux_r[FLUX_R_F0] = cand.y;
    flux_r[FLUX_R_F0 + 1u] = floatBitsToUint(share);
    flux_r[FLUX_R_F0 + 2u] = floatBitsToUint(float(row.position));
    flux_r[FLUX_R_F0 + 3u] = floatBitsToUint(float(cand.z));
    flux_r[FLUX_R_F0 + 4u] = floatBitsToUint(row.best);
    flux_r[FLUX_R_F0 + 5u] = floatBitsToUint(row.entropy);
    for (uint i = FLUX_R_F0 + 6u; i < FLUX_R_F0 + 16u; i++) flux_r[i] = f.constants[i >> 2][i & 3u];
    flux_written = uvec4(0u);
}

// A candidate's first state. draw: fill R10 even if the program does not name it.
FluxState flux_start(FluxProgram f, bool draw) { return FluxState(draw ? FLUX_RANDOM : f.first, 0u, 0u, 1); }

uvec4 flux_draw(FluxRow row, uint agent, uint token) { return uvec4(row.position, agent, token, 0x464C5558u); }

// The score of a candidate that has been settled. A program that traps, or whose result is no finite number, leaves the
// candidate's own logit.
float flux_result(FluxProgram f, inout FluxState s, float logit) {
    float reals = uintBitsToFloat(flux_r[FLUX_R_F0]);
    float fixed_point = flux_product(float(int(flux_r[0])), 1.0 / 65536.0);
    if (s.trap == 0u && f.by_float && (isnan(reals) || isinf(reals))) s.trap = FLUX_TRAP_OTHER;
    return s.trap != 0u ? logit : f.by_float ? reals : fixed_point;
}

// Runs one candidate of a row from its facts to its score.
FluxResult flux_score(FluxProgram f, FluxRow row, uvec4 cand, uint rank, uint agent, uint max_steps, bool draw) {
    flux_enter(f, row, cand, rank);
    FluxResult result;
    result.state = flux_start(f, draw);
    flux_run(result.state, f.code, f.bytes, max_steps, flux_draw(row, agent, cand.x), row.seed);
    result.score = flux_result(f, result.state, uintBitsToFloat(cand.y));
    return result;
}
