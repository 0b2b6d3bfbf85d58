#version 450
#include "flux_vote.contract.glsl"
#include "include/sample_math.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_weight.glsl"
#include "include/flux_ballot.glsl"

// One thread per candidate: the consensus of its row's agents, put into the row's logits, which are -inf elsewhere.
void main() {
    uint row = gl_WorkGroupID.y, c = gl_WorkGroupID.x * WG + gl_LocalInvocationID.x;
    uint slot = row_info[row * INFO_WORDS + INFO_SLOT], n = min(row_info[row * INFO_WORDS + INFO_N], p.C);
    if (slot >= p.S || c >= n) return;
    Ballot b = open_ballot(row, slot, n);
    if (!(b.whole > 0.0)) return;
    uint id = min(cand[row * p.C + c].x, p.V - 1u);
    float vote = consensus_of(b, total_of(b, c, id));
    consensus[row * p.V + id] = vote;
    if (p.has_votes != 0u) votes[row * p.C + c] = vote;
}
