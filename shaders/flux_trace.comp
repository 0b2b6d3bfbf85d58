#version 450
#include "flux_trace.contract.glsl"
#include "include/sample_math.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_weight.glsl"
#include "include/flux_ballot.glsl"
#include "include/flux_chosen.glsl"
#include "include/reduce.glsl"

// One workgroup per row, once the token is drawn: facts of the row, its agents, and the leading candidates by consensus
// with what every agent added, best first; then the chosen one where it is not among them. flux_vk/decode/trace.py
// reads the words in this order.

const uint LEADING = 16u;
const uint HEAD_WORDS = 16u;    // position, n, best, entropy, logsumexp, seed (2), agents, mode, entries, chosen id, its place
const uint AGENT_WORDS = 2u;    // weight, trust
const uint ENTRY_WORDS = 24u;   // id, rank, logit, count, distance, consensus, total, 0, scores (8), contributions (8)
const uint PLACES = 8u;

uint out_at;
shared float s_part[PLACES];

// For all threads: one an agent, since counting an agent's points may take a thousand steps.
void write_entry(Ballot b, uint entry, uint c) {
    uint t = gl_LocalInvocationID.x, at = out_at + HEAD_WORDS + AGENT_WORDS * PLACES + entry * ENTRY_WORDS;
    uvec4 k = cand[b.row * p.C + c];
    if (t < PLACES) {
        bool there = t < b.agents;
        float own = there ? score[(b.row * p.A + t) * p.C + c] : 0.0;
        float part = there ? contribution(b, t, c, k.x) : 0.0;
        s_part[t] = part;
        trace_ring[at + 8u + t] = floatBitsToUint(own);
        trace_ring[at + 16u + t] = floatBitsToUint(part);
    }
    barrier();
    if (t == 0u) {
        precise float total = 0.0;
        for (uint a = 0u; a < PLACES; a++) total += s_part[a];
        uint words[8] = uint[](
            k.x, c, k.y, k.z, k.w, floatBitsToUint(consensus_of(b, total)), floatBitsToUint(total), 0u);
        for (uint w = 0u; w < 8u; w++) trace_ring[at + w] = words[w];
    }
    barrier();
}

void write_head(Ballot b, uint entries, uint chosen, uint place) {
    uint info = b.row * INFO_WORDS;
    uint words[HEAD_WORDS] = uint[](
        row_info[info + INFO_POS], b.n, row_info[info + INFO_BEST], row_info[info + INFO_ENTROPY],
        row_info[info + INFO_LSE], row_info[info + INFO_SEED_LO], row_info[info + INFO_SEED_HI], b.agents, b.mode,
        entries, chosen, place, 0u, 0u, 0u, 0u);
    for (uint w = 0u; w < HEAD_WORDS; w++) trace_ring[out_at + w] = words[w];
    for (uint a = 0u; a < PLACES; a++) {
        bool there = a < min(b.agents, p.P);
        uint at = out_at + HEAD_WORDS + AGENT_WORDS * a, from = b.slot * p.P + min(a, p.P - 1u);
        trace_ring[at] = there ? floatBitsToUint(weight[from]) : 0u;
        trace_ring[at + 1u] = there ? floatBitsToUint(trust[from]) : 0u;
    }
}

void main() {
    uint row = gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    uint slot = row_info[row * INFO_WORDS + INFO_SLOT], n = min(row_info[row * INFO_WORDS + INFO_N], p.C);
    if (slot >= p.S) return;
    out_at = (slot * p.T + row_info[row * INFO_WORDS + INFO_POS] % p.T) * p.TW;
    Ballot b = open_ballot(row, slot, n);
    if (!(b.whole > 0.0)) n = 0u;
    b.n = n;
    uint entries = min(n, LEADING), place = chosen_place(row, picked[row].x, n);
    // Each thread knows the best of its own candidates that is not listed yet; who gave the last one looks again.
    uint last_key = 0xFFFFFFFFu, last_id = 0u, key = 0u, id = 0xFFFFFFFFu, at = 0xFFFFFFFFu;
    bool listed = false, look = true;
    for (uint e = 0u; e < entries; e++) {
        if (look) {
            key = 0u;
            id = 0xFFFFFFFFu;
            at = 0xFFFFFFFFu;
        }
        for (uint c = look ? t : n; c < n; c += WG) {
            uint k = key_of(votes[row * p.C + c]), i = cand[row * p.C + c].x;
            bool behind = k < last_key || (k == last_key && i > last_id);
            bool better = behind && (k > key || (k == key && i < id));
            key = better ? k : key;
            id = better ? i : id;
            at = better ? c : at;
        }
        last_key = wg_max(key);
        last_id = wg_min(key == last_key ? id : 0xFFFFFFFFu);
        look = key == last_key && id == last_id;
        uint c = min(wg_min(look ? at : 0xFFFFFFFFu), n - 1u);
        listed = listed || c == place;
        write_entry(b, e, c);
    }
    if (place < n && !listed) write_entry(b, entries++, place);
    if (t == 0u) write_head(b, entries, picked[row].x, place < n ? place : 0xFFFFFFFFu);
}
