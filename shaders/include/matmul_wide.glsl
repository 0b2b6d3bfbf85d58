// Matrix product for GPUs and few tokens: WG threads share NR weight rows and stride along k, a thread taking 16 bytes of
// every row (Q_UNIT weights). The activations of a stretch of WG units are staged in shared memory once, STAGE tokens at a
// time, multiplied by `norm` on the way, and serve all NR rows; the weights of the next stretch are under way meanwhile.
// A row's bits depend on WG and the subgroup size alone, not on NR, NT, STAGE or its batch.
#include "include/quant_wide.glsl"
#define NORMED 1
#include "include/matvec_end.glsl"

#define PIECES (Q_UNIT / 4u)                 // groups of four activations of a unit
#if !Q_FLOAT
#define SUMS (Q_BIASED || Q_MIN)             // whether the sum of the activations is needed
#define PARTS (Q_HALVES ? 2u : 1u)
#endif

shared vec4 staged[STAGE * WG * PIECES];
QRaw raw[NR];                                // of this thread: its unit of every weight row

// Where piece j of unit u of the stretch lies. Eight neighbouring threads that read the same j meet all banks.
uint place(uint token, uint u, uint j) {
    return (token * WG + u) * PIECES + (j ^ ((u / (8u / PIECES)) & (PIECES - 1u)));
}

float dot_in_order(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Activations k..k+3 of the row that starts at `row`, zero past K.
vec4 activations(uint row, uint k, bool whole) {
    vec4 v = vec4(0.0);
    if (whole) return k < p.K ? x4[(row + k) >> 2] : v;
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (k + c < p.K) v[c] = x[row + k + c];
    return v;
}

vec4 norms(uint k, bool whole) {
    vec4 v = vec4(0.0);
    if (whole) return k < p.K ? norm4[k >> 2] : v;
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (k + c < p.K) v[c] = norm[k + c];
    return v;
}

void stage(uint first, uint t0, uint token) {
#if Q_FLOAT
    bool whole = (p.x_stride | p.K) % 4u == 0u;
#else
    const bool whole = true;
#endif
    [[unroll]] for (uint s = 0u; s < STAGE; s++) {
        uint row = min(t0 + token + s, p.R - 1u) * p.x_stride;
        [[unroll]] for (uint i = 0u; i < PIECES; i++) {
            uint slot = i * WG + gl_LocalInvocationID.x, k = (first * PIECES + slot) * 4u;
            vec4 v = activations(row, k, whole);
            if (NORM != 0u) {
                squares[token + s] = dot_in_order(v, v, squares[token + s]);
                v *= norms(k, whole);
            }
            staged[place(s, slot / PIECES, slot % PIECES)] = v;
        }
    }
}

#if Q_FLOAT

void multiply(uint u, uint token) {
    uint me = gl_LocalInvocationID.x;
    [[unroll]] for (uint j = 0u; j < PIECES; j++) {
        vec4 v[STAGE];
        [[unroll]] for (uint s = 0u; s < STAGE; s++) v[s] = staged[place(s, me, j)];
        [[unroll]] for (uint n = 0u; n < NR; n++) {
            vec4 q = q_floats(raw[n], j);
            uint k = u * Q_UNIT + j * 4u;
            if (k + 4u > p.K)                // what lies past the row's end counts for nothing, whatever it is
                [[unroll]] for (uint c = 0u; c < 4u; c++)
                    if (k + c >= p.K) q[c] = 0.0;
            [[unroll]] for (uint s = 0u; s < STAGE; s++) {
                uint a = n * NT + token + s;
                acc[a] = dot_in_order(q, v[s], acc[a]);
            }
        }
    }
}

#else

vec4 numbers(uint stored) {
#if Q_LEVELS
    return vec4(ivec4(q_levels[stored & 15u], q_levels[(stored >> 8) & 15u], q_levels[(stored >> 16) & 15u],
                      q_levels[stored >> 24]));
#elif Q_SIGNED
    int v = int(stored);
    return vec4(bitfieldExtract(v, 0, 8), bitfieldExtract(v, 8, 8), bitfieldExtract(v, 16, 8), v >> 24);
#else
    return q_bytes(stored);
#endif
}

void multiply(uint u, uint token) {
    uint me = gl_LocalInvocationID.x;
    float part[NR * STAGE * PARTS], sums[STAGE * PARTS];
    [[unroll]] for (uint a = 0u; a < NR * STAGE * PARTS; a++) part[a] = 0.0;
    [[unroll]] for (uint a = 0u; a < STAGE * PARTS; a++) sums[a] = 0.0;
    [[unroll]] for (uint j = 0u; j < 4u; j++) {
        vec4 low[STAGE], high[STAGE];
        [[unroll]] for (uint s = 0u; s < STAGE; s++) {
            low[s] = staged[place(s, me, j)];
#if SUMS
            sums[s * PARTS] = dot_in_order(low[s], vec4(1.0), sums[s * PARTS]);
#endif
#if QTYPE != Q8_0
            high[s] = staged[place(s, me, 4u + j)];
#if SUMS
            uint h = s * PARTS + PARTS - 1u;
            sums[h] = dot_in_order(high[s], vec4(1.0), sums[h]);
#endif
#endif
        }
        [[unroll]] for (uint n = 0u; n < NR; n++) {
            vec4 l = numbers(q_low(raw[n], j));
            [[unroll]] for (uint s = 0u; s < STAGE; s++) {
                uint a = (n * STAGE + s) * PARTS;
                part[a] = dot_in_order(l, low[s], part[a]);
            }
#if QTYPE != Q8_0
            vec4 h = numbers(q_high(raw[n], j));
            [[unroll]] for (uint s = 0u; s < STAGE; s++) {
                uint a = (n * STAGE + s) * PARTS + PARTS - 1u;
                part[a] = dot_in_order(h, high[s], part[a]);
            }
#endif
        }
    }
    [[unroll]] for (uint n = 0u; n < NR; n++) {
        vec2 scale, minimum;
        q_scales(raw[n], u, scale, minimum);
#if Q_BIASED
        minimum = scale * -Q_BIAS;
#endif
        [[unroll]] for (uint s = 0u; s < STAGE; s++) {
            uint a = n * NT + token + s, part_at = (n * STAGE + s) * PARTS;
            [[unroll]] for (uint h = 0u; h < PARTS; h++) {
                acc[a] = fma(scale[h], part[part_at + h], acc[a]);
#if SUMS
                acc[a] = fma(minimum[h], sums[s * PARTS + h], acc[a]);
#endif
            }
        }
    }
}

#endif

// One tile: NR weight rows, NT tokens.
void product(uint tile) {
    uint tiles = (p.R + NT - 1u) / NT;
    uint t0 = (tile % tiles) * NT, n0 = (tile / tiles) * NR;
    uint nb = q_blocks(p.K), units = q_units(p.K), row_step = q_stride(p.K) >> 4;
#if Q_LEVELS
    q_fill_levels();                         // a barrier follows before the first use
#endif
    uint row[NR], me = gl_LocalInvocationID.x;
    QRaw next[NR];
    [[unroll]] for (uint n = 0u; n < NR; n++) {
        row[n] = weight_row(n0, n) * row_step;
        if (me < units) next[n] = q_load(row[n], nb, me);
    }
    [[unroll]] for (uint a = 0u; a < NR * NT; a++) acc[a] = 0.0;
    [[unroll]] for (uint t = 0u; t < NT; t++) squares[t] = 0.0;

    for (uint first = 0u; first < units; first += WG) {
        uint u = first + me;
        [[unroll]] for (uint n = 0u; n < NR; n++) raw[n] = next[n];
        if (u + WG < units)
            [[unroll]] for (uint n = 0u; n < NR; n++) next[n] = q_load(row[n], nb, u + WG);
        [[unroll]] for (uint token = 0u; token < NT; token += STAGE) {
            if (first + token > 0u) barrier();       // the stretch before has been read
            stage(first, t0, token);
            barrier();
            if (u < units) multiply(u, token);
        }
    }
    finish(n0, t0);
}
