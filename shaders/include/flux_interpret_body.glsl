// The kernel flux_interpret: a workgroup runs one agent for a block of one row's candidates, WAVES for each invocation.

#include "philox.glsl"
#include "math.glsl"
#include "flux_vm.glsl"
#include "flux_abi.glsl"

void write_state(uint at, FluxState s) {
    for (uint i = 0u; i < 32u; i++) state[at + i] = flux_r[i];
    state[at + 32u] = s.order == 0 ? 1u : s.order < 0 ? 6u : 0u;
    state[at + 33u] = s.trap;
    state[at + 34u] = s.steps;
    state[at + 35u] = s.pc;
}

void main() {
    uint row = gl_WorkGroupID.z, agent = gl_WorkGroupID.y;
    FluxRow facts = flux_row_facts(flux_row(2u * row), flux_row(2u * row + 1u));
    if (facts.slot >= p.S || agent >= p.P) return;
    FluxProgram program = flux_program((facts.slot * p.P + agent) * (p.W / 4u));
    if (!program.in_use) return;
    uint trapped = 0u, worst = 0u, n = min(facts.n, p.C), wave = 0u;
    uint first = gl_WorkGroupID.x * WAVES * WG + gl_LocalInvocationID.x;
    for (; wave < WAVES; wave++) {
        uint i = first + wave * WG;
        if (i >= n) break;
        FluxResult result = flux_score(program, facts, flux_cand(row * p.C + i), i, agent, p.max_steps, STATE != 0u);
        uint at = (row * p.A + agent) * p.C + i;
        score[at] = result.score;
        trapped += result.state.trap != 0u ? 1u : 0u;
        worst = max(worst, result.state.trap);
        if (STATE != 0u) write_state(at * 36u, result.state);
    }
    // A driver that ends loops by itself may have ended that one too.
    for (uint left = 1u; left < WAVES; left++) {
        uint i = first + left * WG;
        if (left < wave || i >= n) continue;
        score[(row * p.A + agent) * p.C + i] = uintBitsToFloat(flux_cand(row * p.C + i).y);
        trapped++;
        worst = FLUX_TRAP_STEP_LIMIT;
    }
    if (trapped != 0u) {
        atomicAdd(traps[(row * p.A + agent) * 2u], trapped);
        atomicMax(traps[(row * p.A + agent) * 2u + 1u], worst);
    }
}
