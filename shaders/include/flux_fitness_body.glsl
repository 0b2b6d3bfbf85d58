// The kernel flux_fitness: a workgroup runs one program for all candidates of one position, then joins their scores.

#include "philox.glsl"
#include "exp_bits.glsl"
#include "order.glsl"
#include "reduce.glsl"
#include "flux_vm.glsl"
#include "flux_abi.glsl"

const float LOWEST = -3.4028235e38;
const uint NONE = 0xFFFFFFFFu;
shared float target_score;

// What one invocation has seen: a running softmax sum, its best candidate, its traps.
struct Seen {
    float top, sum;
    uint key, token;
    uint trapped, worst;
};

void see(inout Seen s, float score, uint token) {
    float v = clamp(score, LOWEST, -LOWEST);    // the logit of a program that trapped may be an infinity
    float higher = max(s.top, v);
    s.sum = s.sum * exp_bits(s.top - higher) + exp_bits(v - higher);
    s.top = higher;
    uint key = order_key(floatBitsToUint(v), 1u);
    bool first = key > s.key;
    s.token = first ? token : key == s.key ? min(s.token, token) : s.token;
    s.key = first ? key : s.key;
}

void main() {
    uint row = gl_WorkGroupID.x, agent = gl_WorkGroupID.y, t = gl_LocalInvocationID.x, at = agent * p.M + row;
    FluxRow facts = flux_row_facts(flux_row(2u * row), flux_row(2u * row + 1u));
    FluxProgram program = flux_program(agent * (p.W / 4u));
    uint n = program.in_use ? min(facts.n, p.C) : 0u, hit = target[row];
    Seen seen = Seen(LOWEST, 0.0, 0u, NONE, 0u, 0u);
    for (uint i = t; i < n; i += WG) {
        uvec4 cand = flux_cand(row * p.C + i);
        // The agent's number is 0 for all: random bits, and so a program's marks, do not depend on its place.
        FluxResult result = flux_score(program, facts, cand, i, 0u, p.max_steps, false);
        see(seen, result.score, cand.x);
        if (i == hit) target_score = clamp(result.score, LOWEST, -LOWEST);
        seen.trapped += result.state.trap != 0u ? 1u : 0u;
        seen.worst = max(seen.worst, result.state.trap);
    }
    uint best = wg_max(seen.key);
    float top = uintBitsToFloat(order_bits(max(best, order_key(floatBitsToUint(LOWEST), 1u))));
    float sum = wg_sum(seen.sum * exp_bits(seen.top - top));
    uint token = wg_min(seen.key == best ? seen.token : NONE);
    uint trapped = uint(wg_sum(float(seen.trapped))), worst = wg_max(seen.worst);
    if (t != 0u) return;
    float inside = hit < n ? target_score - top - log(sum) : 0.0;
    loglik[at] = n == 0u ? p.least : max(base[row] + inside, p.least);
    pick[at] = token;
    traps[2u * at] = trapped;
    traps[2u * at + 1u] = worst;
}
