#version 450
#include "embed_backward.contract.glsl"
#include "include/reduce.glsl"

// A workgroup of the first row of an id gathers all rows of that id, in order, for 4 * WG columns; those of the other
// rows have nothing to do. Who has the id among WG rows is told by bits in shared memory: the order of an OR of bits
// does not matter.

const uint WORDS = (WG + 31u) / 32u;
shared uint having[WORDS];

bool is_first(uint row, uint id, uint t) {
    uint seen = 0u;
    for (uint i = t; i < row; i += WG) seen = max(seen, ids[i] == id ? 1u : 0u);
    return wg_max(seen) == 0u;
}

vec4 row_of_g(uint row, uint column) {
    if (p.D % 4u == 0u) return g4[(row * p.D + column) / 4u];
    vec4 v = vec4(0.0);
    for (uint j = 0u; j < min(4u, p.D - column); j++) v[j] = g[row * p.D + column + j];
    return v;
}

void main() {
    uint t = gl_LocalInvocationID.x, column = 4u * gl_GlobalInvocationID.x;
    for (uint row = gl_WorkGroupID.y; row < p.T; row += gl_NumWorkGroups.y) {
        uint id = ids[row];
        if (id - p.n0 >= p.V || !is_first(row, id, t)) continue;
        vec4 sum = vec4(0.0);
        for (uint begin = row; begin < p.T; begin += WG) {
            barrier();
            if (t < WORDS) having[t] = 0u;
            barrier();
            if (begin + t < p.T && ids[min(begin + t, p.T - 1u)] == id) atomicOr(having[t / 32u], 1u << (t % 32u));
            barrier();
            for (uint w = 0u; w < WORDS; w++) {
                for (uint bits = having[w]; bits != 0u; bits &= bits - 1u) {
                    if (column < p.D) sum += row_of_g(begin + 32u * w + uint(findLSB(bits)), column);
                }
            }
        }
        if (column >= p.D) continue;
        uint at = (id - p.n0) * p.D + column;
        if (p.D % 4u == 0u) dw4[at / 4u] += p.scale * sum;
        else for (uint j = 0u; j < min(4u, p.D - column); j++) dw[at + j] += p.scale * sum[j];
    }
}
