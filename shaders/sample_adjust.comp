#version 450
#include "sample_adjust.contract.glsl"
#include "include/sample_math.glsl"

// Bias, then penalties, written into the row's logits in place; what stood there goes to `saved` and sample_commit
// puts it back. Few logits change, so this is cheaper than a second copy of the row.

const uint LAST_MAX = 2048u;
shared uint s_token[LAST_MAX];

// The largest key of the token's block, after a change.
void renew(uint row, uint token) {
    uint block = block_of(min(token, p.V - 1u)), best = 0u;
    uint from = block / BLOCK_LANES * (4u * BLOCK_LANES * BLOCK_VECS) + block % BLOCK_LANES * 4u;
    for (uint j = 0u; j < 4u * BLOCK_VECS; j++) {
        uint id = from + j / 4u * 4u * BLOCK_LANES + j % 4u;
        if (id < p.V) best = max(best, key_of(logits[row * p.V + id]));
    }
    maxima[row * p.NB + block] = best;
}

void main() {
    uint row = gl_WorkGroupID.x, tid = gl_LocalInvocationIndex;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint at = slot * P_WORDS;
    uint entries = p.B + p.H, keep = row * entries;

    uint biases = min(params[at + P_BIAS_COUNT], p.B);
    for (uint e = tid; e < biases; e += WG) {
        uint id = min(bias_id[slot * p.B + e], p.V - 1u);
        float x = logits[row * p.V + id];
        saved[keep + e] = uvec2(id, floatBitsToUint(x));
        logits[row * p.V + id] = x + bias[slot * p.B + e];
    }

    uint seen = hist_count[slot];
    uint n = min(min(params[at + P_LAST_N], seen), min(p.H, LAST_MAX));
    for (uint i = tid; i < n; i += WG) s_token[i] = history[slot * p.H + (seen - 1u - i) % p.H];
    memoryBarrierBuffer();
    barrier();

    float repeat = uintBitsToFloat(params[at + P_REPEAT]), inverse = uintBitsToFloat(params[at + P_INV_REPEAT]);
    float frequency = uintBitsToFloat(params[at + P_FREQUENCY]), presence = uintBitsToFloat(params[at + P_PRESENCE]);
    for (uint i = tid; i < n; i += WG) {
        uint id = s_token[i], count = 0u;
        bool first = id < p.V;      // each token once, by its most recent place
        for (uint j = 0u; j < n; j++) {
            bool same = s_token[j] == id;
            count += same ? 1u : 0u;
            first = first && !(same && j < i);
        }
        uvec2 kept = uvec2(0xFFFFFFFFu, 0u);
        if (first) {
            float x = logits[row * p.V + id];
            kept = uvec2(id, floatBitsToUint(x));
            precise float y = x > 0.0 ? x * inverse : x * repeat;
            precise float less = float(count) * frequency;
            less = less + presence;
            y = y - less;
            logits[row * p.V + id] = y;
        }
        saved[keep + p.B + i] = kept;
    }
    if (p.has_maxima == 0u) return;
    memoryBarrierBuffer();
    barrier();
    for (uint e = tid; e < biases; e += WG) renew(row, bias_id[slot * p.B + e]);
    for (uint i = tid; i < n; i += WG) renew(row, s_token[i]);
}
