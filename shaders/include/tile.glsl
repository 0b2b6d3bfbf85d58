// What the tiled matrix products share: which weight rows and tokens a workgroup has, how both get into shared memory,
// how a sum becomes an element of y. K is walked in steps of 32; a thread brings eight weights or four activations at
// a time. Before the include: TILE_PAD, elements between two staged rows, and TILE_PAIR, rows of w after which gates and
// ups alternate (ACT). After it: put_w and put_x, which store four values at a place of the staged tiles.
#define Q_WIDE
#include "include/quant.glsl"
#include "include/math.glsl"

const uint BK = 32u;
const uint STRIDE = BK + TILE_PAD;
const uint W_UNITS = (BM * 4u + WG - 1u) / WG;
const uint X_UNITS = (BN * 8u + WG - 1u) / WG;
const uint COLUMNS = ACT == 0u ? BM : BM / 2u;       // columns of y that a workgroup makes

shared float token_sums[NORM * BN * 8u + 1u];

void put_w(uint at, vec4 v);
void put_x(uint at, vec4 v);

uint thread, column0, token0;
uint w_row[W_UNITS], x_row[X_UNITS];
QEight held_w[W_UNITS];
vec4 held_x[X_UNITS], held_norm;
float squares[X_UNITS];

bool whole_w(uint unit) { return BM * 4u % WG == 0u || unit < BM * 4u; }
bool whole_x(uint unit) { return BN * 8u % WG == 0u || unit < BN * 8u; }

// The row of w at row r of the tile. What lies past the end is the last row again: nothing is made of it.
uint weight_row(uint r) {
    if (ACT == 0u) return min(column0 + r, p.N - 1u);
    const uint half_pair = TILE_PAIR / 2u;
    uint within = r % TILE_PAIR;
    uint column = min(column0 + r / TILE_PAIR * half_pair + within % half_pair, p.N / 2u - 1u);
    return within < half_pair ? column : p.N / 2u + column;
}

void tile_begin() {
    thread = gl_LocalInvocationID.x;
    uint tiles = (p.R + BN - 1u) / BN, tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    token0 = (tile % tiles) * BN;
    column0 = (tile / tiles) * COLUMNS;
    [[unroll]] for (uint u = 0u; u < W_UNITS; u++)
        w_row[u] = weight_row(min((thread + u * WG) >> 2, BM - 1u)) * (q_stride(p.K) >> 2);
    [[unroll]] for (uint u = 0u; u < X_UNITS; u++) {
        x_row[u] = min(token0 + ((thread + u * WG) >> 3), p.R - 1u) * p.x_stride;
        squares[u] = 0.0;
    }
}

// Four floats from index `at` of x or norm, zero where k + c is past K.
#define FOUR(view, view4, at, k, whole)                                      \
    vec4 v = vec4(0.0);                                                      \
    if (whole && (k) + 3u < p.K) v = view4[(at) >> 2];                       \
    else                                                                     \
        for (uint c = 0u; c < 4u; c++) if ((k) + c < p.K) v[c] = view[(at) + c];

vec4 activations(uint row, uint k) {
#if Q_FLOAT
    FOUR(x, x4, row + k, k, (p.x_stride & 3u) == 0u)
    return v;
#else
    return x4[(row + k) >> 2];               // K is a multiple of 32 and x_stride of 8
#endif
}

vec4 norm_weights(uint k) {
#if Q_FLOAT
    FOUR(norm, norm4, k, k, true)
    return v;
#else
    return norm4[k >> 2];
#endif
}

// Loads sub-block b of the workgroup's weights and activations into registers.
void tile_fetch(uint b) {
    [[unroll]] for (uint u = 0u; u < W_UNITS; u++)
        if (whole_w(thread + u * WG)) held_w[u] = q_read(w_row[u], p.K, b, thread & 3u);
    [[unroll]] for (uint u = 0u; u < X_UNITS; u++)
        if (whole_x(thread + u * WG)) held_x[u] = activations(x_row[u], b * 32u + (thread & 7u) * 4u);
    if (NORM != 0u) held_norm = norm_weights(b * 32u + (thread & 7u) * 4u);
}

float dot_in_order(vec4 a, vec4 b, float sum) {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Puts what was fetched of sub-block b into shared memory, weights as their values.
void tile_store(uint b) {
    [[unroll]] for (uint u = 0u; u < W_UNITS; u++) {
        uint unit = thread + u * WG, i = unit & 3u;
        if (!whole_w(unit)) continue;
        vec4 low, high;
        q_weights(held_w[u], low, high);
#if Q_FLOAT
        if (b * 32u + i * 4u >= p.K) low = vec4(0.0);
        if (b * 32u + 16u + i * 4u >= p.K) high = vec4(0.0);
#endif
        put_w((unit >> 2) * STRIDE + i * 4u, low);
        put_w((unit >> 2) * STRIDE + 16u + i * 4u, high);
    }
    [[unroll]] for (uint u = 0u; u < X_UNITS; u++) {
        uint unit = thread + u * WG;
        if (!whole_x(unit)) continue;
        vec4 v = held_x[u];
        if (NORM != 0u) {
            squares[u] = dot_in_order(v, v, squares[u]);
            v *= held_norm;
        }
        put_x((unit >> 3) * STRIDE + (unit & 7u) * 4u, v);
    }
}

// After the last step: the squares of every token where all threads see them, eight sums a token.
void tile_end() {
    if (NORM == 0u) return;
    [[unroll]] for (uint u = 0u; u < X_UNITS; u++)
        if (whole_x(thread + u * WG)) token_sums[thread + u * WG] = squares[u];
    barrier();
}

// What the norm multiplies the sums of a token of the tile by.
float token_scale(uint token) {
    if (NORM == 0u) return 1.0;
    float sum = 0.0;
    [[unroll]] for (uint i = 0u; i < 8u; i++) sum += token_sums[token * 8u + i];
    return 1.0 / sqrt(sum / float(p.K) + p.eps);
}

// Writes one element: column of this workgroup's, token of the tile, the sum (with ACT the gate's) and the up's sum.
void tile_write(uint column, uint token, float sum, float up, float scale) {
    uint n = column0 + column, t = token0 + token;
    if (n >= (ACT == 0u ? p.N : p.N / 2u) || t >= p.R) return;
    float v = NORM != 0u ? sum * scale : sum;
    if (p.has_bias != 0u) v += bias[p.n0 + n];
    if (ACT != 0u) {
        float other = NORM != 0u ? up * scale : up;
        if (p.has_bias != 0u) other += bias[p.n0 + p.N / 2u + n];
        v = (ACT == 1u ? silu(v) : gelu(v)) * other;
    }
    uint at = t * p.y_stride + p.y_offset + p.n0 + n;
    if (p.has_residual != 0u) v += residual[at];
    y[at] = v;
}
