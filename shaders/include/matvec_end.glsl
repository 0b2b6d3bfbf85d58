// The end of the matrix-vector kernels: the sums of a workgroup's threads, then what follows the product, then y.
// Needs the spec constants WG, NR, NT, ACT, the bindings y, bias, residual, and the defines SUBGROUP (1: subgroup
// arithmetic; 0: shared memory alone, so no feature is needed) and NORMED (1: the spec constant NORM says whether `squares`
// are summed too, for a norm in front). With MAXIMA also the spec constant STAT and the binding maxima.
#include "include/math.glsl"
#if MAXIMA
#include "include/logit_key.glsl"
#endif

float acc[NR * NT];                          // of this thread: weight row n and token t at n * NT + t
#if NORMED
float squares[NT];                           // of this thread: sum of x^2 of every token
const uint VALUES = NR * NT + NORM * NT;
#else
const uint VALUES = NR * NT;
#endif

#if SUBGROUP
shared float partial[VALUES * (WG / 4u)];    // subgroups have at least four invocations
#else
shared float partial[VALUES * WG];
#endif

float own_value(uint a) {
#if NORMED
    if (a >= NR * NT) return squares[a - NR * NT];
#endif
    return acc[a];
}

// The weight row of slot n of a tile. Gated: gate rows in even slots, the rows of `up` that belong to them in odd ones.
uint weight_row(uint tile_row, uint n) {
    if (ACT == 0u) return min(tile_row + n, p.N - 1u);
    uint half_n = p.N >> 1;
    return min((tile_row + n) >> 1, half_n - 1u) + (n & 1u) * half_n;
}

void add_up() {
    uint thread = gl_LocalInvocationID.x;
#if SUBGROUP
    [[unroll]] for (uint a = 0u; a < VALUES; a++) {
        float sum = subgroupAdd(own_value(a));
        if (subgroupElect()) partial[a * gl_NumSubgroups + gl_SubgroupID] = sum;
    }
    barrier();
#else
    [[unroll]] for (uint a = 0u; a < VALUES; a++) partial[a * WG + thread] = own_value(a);
    for (uint half_wg = WG / 2u; half_wg > 0u; half_wg /= 2u) {
        barrier();
        for (uint i = thread; i < VALUES * half_wg; i += WG) {
            uint at = i / half_wg * WG + i % half_wg;
            partial[at] += partial[at + half_wg];
        }
    }
    barrier();
#endif
}

float workgroup_value(uint a) {
#if SUBGROUP
    precise float v = 0.0;                   // without it, a compiler may order the sum as it likes
    for (uint s = 0u; s < gl_NumSubgroups; s++) v += partial[a * gl_NumSubgroups + s];
    return v;
#else
    return partial[a * WG];
#endif
}

float before_act(uint n, uint t, uint row) {
    precise float v = workgroup_value(n * NT + t);
#if NORMED
    if (NORM != 0u) v *= 1.0 / sqrt(workgroup_value(NR * NT + t) / float(p.K) + p.eps);
#endif
    if (p.has_bias != 0u) v += bias[p.n0 + row];
    return v;
}

// tile_row: first slot of the tile among N; t0: its first token. Every invocation calls this.
void finish(uint tile_row, uint t0) {
    add_up();
    const uint columns = ACT == 0u ? NR : NR / 2u, all_columns = ACT == 0u ? p.N : p.N >> 1;
    for (uint o = gl_LocalInvocationID.x; o < columns * NT; o += WG) {
        uint c = o / NT, t = o % NT, column = (ACT == 0u ? tile_row : tile_row >> 1) + c, token = t0 + t;
        if (column >= all_columns || token >= p.R) continue;
        precise float v;
        if (ACT == 0u) {
            v = before_act(c, t, column);
        } else {
            float gate = before_act(2u * c, t, column), up = before_act(2u * c + 1u, t, all_columns + column);
            v = (ACT == 1u ? silu(gate) : gelu(gate)) * up;
        }
        uint at = token * p.y_stride + p.y_offset + p.n0 + column;
        if (p.has_residual != 0u) v += residual[at];
        y[at] = v;
#if MAXIMA
        if (STAT != 0u) atomicMax(maxima[token * p.max_stride + block_of(p.n0 + column)], key_of(v));
#endif
    }
}
