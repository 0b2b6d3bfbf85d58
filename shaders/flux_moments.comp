#version 450
#include "flux_moments.contract.glsl"
#include "include/sample_row.glsl"
#include "include/flux_swarm.glsl"
#include "include/flux_weight.glsl"

// 4096 logits a workgroup, one block of 64 a thread: the block's largest key, and for all 4096 the largest logit m, the
// sum of exp(x - m) and that of (x - m) exp(x - m), from which flux_candidates makes logsumexp and entropy.

shared uint s_top[BLOCK_LANES];
shared float s_sum[BLOCK_LANES];
shared float s_dot[BLOCK_LANES];

// Where nobody votes the consensus is the logits themselves.
void pass(uint row, uint i) {
    if ((p.V & 3u) == 0u) {
        uint at = row * (p.V >> 2) + i;
        if (4u * i < p.V) consensus4[at] = logits4[at];
    } else {
        for (uint id = 4u * i; id < min(4u * i + 4u, p.V); id++) consensus[row * p.V + id] = logits[row * p.V + id];
    }
}

void main() {
    uint row = gl_WorkGroupID.y, t = gl_LocalInvocationID.x;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint first = gl_WorkGroupID.x * BLOCK_LANES * BLOCK_VECS + t;
    uint passed = p.has_consensus != 0u && !(all_weight(slot) > 0.0) ? BLOCK_VECS : 0u;
    for (uint j = 0u; j < passed; j++) pass(row, first + BLOCK_LANES * j);
    if (agents_of(slot) == 0u) return;

    uvec4 best = uvec4(0u), kept[BLOCK_VECS];
    for (uint j = 0u; j < BLOCK_VECS; j++) {
        uint i = first + BLOCK_LANES * j;
        uvec4 k = load_keys(row, i);
        best = max(best, k);
        kept[j] = k;
        if (p.has_keys != 0u && i < p.VP / 4u) keys[row * (p.VP / 4u) + i] = k;
    }
    uint own = max(max(best.x, best.y), max(best.z, best.w));
    maxima[row * p.NB + gl_WorkGroupID.x * BLOCK_LANES + t] = own;
    // What is not finite counts as the lowest finite number here: it adds nothing to a block that has a finite logit, and
    // a block that has none is left out below.
    precise float top = value_of(max(own, KEY_NEG_INF + 1u)), sum = 0.0, dot_ = 0.0;
    for (uint j = 0u; j < BLOCK_VECS; j++) {
        for (uint c = 0u; c < 4u; c++) {
            precise float d = value_of(max(kept[j][c], KEY_NEG_INF + 1u)) - top;
            precise float e = exp_neg(d);
            sum += e;
            dot_ += max(d, -30.0) * e;
        }
    }
    s_top[t] = own;
    barrier();
    uint most = 0u;
    for (uint i = 0u; i < BLOCK_LANES; i++) most = max(most, s_top[i]);
    precise float lower = own > KEY_NEG_INF ? top - value_of(most) : 0.0;
    precise float share = own > KEY_NEG_INF ? exp_neg(lower) : 0.0;
    s_sum[t] = share * sum;
    s_dot[t] = share > 0.0 ? share * (dot_ + lower * sum) : 0.0;
    barrier();
    if (t == 0u) {
        sum = 0.0;
        dot_ = 0.0;
        for (uint i = 0u; i < BLOCK_LANES; i++) {
            sum += s_sum[i];
            dot_ += s_dot[i];
        }
        parts[row * p.G + gl_WorkGroupID.x] = vec4(value_of(max(most, KEY_NEG_INF)), sum, dot_, 0.0);
    }
}
