// The kernel flux_interpret: a workgroup runs one agent for a block of one row's candidates, WAVES for each invocation.
//
// An invocation takes its next candidate as soon as one has stopped. The loops are nested so that a CPU driver, which
// leaves a loop only at its end, passes the code of rare entries once for an invocation, not for every candidate.

#include "philox.glsl"
#include "exp_bits.glsl"
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
    uint i = gl_WorkGroupID.x * WAVES * WG + gl_LocalInvocationID.x, first = (row * p.A + agent) * p.C;
    uint end = min(min(facts.n, p.C), (gl_WorkGroupID.x + 1u) * WAVES * WG);
    uint trapped = 0u, worst = 0u;
    uvec4 cand = uvec4(0u), w = uvec4(0u);
    FluxState s = FluxState(0u, 0u, 0u, 0);
    bool busy = false, waits = false, again = true;
    do {
        do {
            if (busy) {         // it has stopped
                flux_settle(s, w, p.max_steps);
                score[first + i] = flux_result(program, s, uintBitsToFloat(cand.y));
                if (STATE != 0u) write_state((first + i) * 36u, s);
                trapped += s.trap != 0u ? 1u : 0u;
                worst = max(worst, s.trap);
                i += WG;
            }
            busy = i < end;
            if (busy) {
                cand = flux_cand(row * p.C + i);
                flux_enter(program, facts, cand, i);
                s = flux_start(program, STATE != 0u);
                w = flux_code(program.code + s.pc);
                flux_plain(s, w, program.code, p.max_steps);
            }
            waits = busy && flux_waits(s, w, p.max_steps);
            again = busy && !waits;
        } while (again);
        do {
            if (waits) {
                flux_rare(s, w, program.code, program.bytes, flux_draw(facts, agent, cand.x), facts.seed);
                flux_plain(s, w, program.code, p.max_steps);
                waits = flux_waits(s, w, p.max_steps);
            }
        } while (waits);
    } while (busy);
    // A driver that ends loops by itself may have ended these; then what is left has used up its steps.
    for (uint left = 0u; left < WAVES; left++) {
        if (i < end) {
            score[first + i] = uintBitsToFloat(flux_cand(row * p.C + i).y);
            trapped++;
            worst = max(worst, FLUX_TRAP_STEP_LIMIT);
        }
        i += WG;
    }
    if (trapped != 0u) {
        atomicAdd(traps[(row * p.A + agent) * 2u], trapped);
        atomicMax(traps[(row * p.A + agent) * 2u + 1u], worst);
    }
}
