#version 450
#include "flux_tally.contract.glsl"
#include "include/sample_math.glsl"
#include "include/flux_swarm.glsl"
#include "include/reduce.glsl"

// One workgroup per row and agent: its largest score, the lowest id among the candidates that have it, and the mass of
// its softmax as a 64-bit integer (units of 2^-40 of the largest score's), which does not depend on an order.

shared uint s_lo[WG];
shared uint s_hi[WG];

void main() {
    uint row = gl_WorkGroupID.y, agent = gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    uint slot = row_info[row * INFO_WORDS + INFO_SLOT], n = min(row_info[row * INFO_WORDS + INFO_N], p.C);
    if (slot >= p.S || n == 0u) return;
    if (agent >= swarm[slot * SWARM_WORDS + SWARM_AGENTS]) return;
    uint at = (row * p.A + agent) * p.C;
    uint key = 0u;
    for (uint c = t; c < n; c += WG) key = max(key, key_of(score[at + c]));
    key = wg_max(key);
    float best = value_of(key);
    uint id = 0xFFFFFFFFu;
    uvec2 mass = uvec2(0u);
    for (uint c = t; c < n; c += WG) {
        uint own = key_of(score[at + c]);
        if (own == key) id = min(id, cand[(row * p.C + c)].x);
        precise float d = value_of(own) - best;
        mass = add64(mass, parts64(mass_parts(d)));
    }
    id = wg_min(id);
    s_lo[t] = mass.x;
    s_hi[t] = mass.y;
    barrier();
    if (t == 0u) {
        for (uint i = 1u; i < WG; i++) mass = add64(mass, uvec2(s_lo[i], s_hi[i]));
        tally[row * p.A + agent] = uvec4(floatBitsToUint(best), id, mass);
    }
}
