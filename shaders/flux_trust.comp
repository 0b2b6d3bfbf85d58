#version 450
#include "flux_trust.contract.glsl"
#include "include/sample_math.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_chosen.glsl"

// One thread per row and agent, once the token is drawn: trust moves towards the likelihood that the agent's softmax
// gave to the token, next to its best. Trust and traps go to the rings at the token's position.
void main() {
    uint row = gl_GlobalInvocationID.x / p.P, agent = gl_GlobalInvocationID.x % p.P;
    if (row >= p.M) return;
    uint slot = row_info[row * INFO_WORDS + INFO_SLOT], n = min(row_info[row * INFO_WORDS + INFO_N], p.C);
    if (slot >= p.S) return;
    uvec2 token = picked[row];
    bool votes = agent < min(swarm[slot * SWARM_WORDS + SWARM_AGENTS], p.A);
    float old = trust[slot * p.P + agent];
    float now = old;
    if (votes && token.y == 0u) {
        uint c = chosen_place(row, token.x, n);
        if (c < n) {
            float rate = uintBitsToFloat(swarm[slot * SWARM_WORDS + SWARM_RATE]);
            precise float d = score[(row * p.A + agent) * p.C + c] - uintBitsToFloat(tally[row * p.A + agent].x);
            precise float kept = (1.0 - rate) * old;
            precise float gained = rate * exp_neg(d);
            kept += gained;
            now = rate == 0.0 ? old : min(kept, 1.0);
        }
    }
    trust[slot * p.P + agent] = now;
    uint entry = slot * p.R + row_info[row * INFO_WORDS + INFO_POS] % p.R;
    trust_ring[entry * p.P + agent] = now;
    uint a = min(agent, p.A - 1u);
    trap_ring[entry * p.P + agent] = votes && n > 0u ? traps[row * p.A + a] : uvec2(0u);
}
