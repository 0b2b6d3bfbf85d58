#version 450
#include "sample_repeats.contract.glsl"
#include "include/sample_math.glsl"
#include "include/sample_order.glsl"

// One workgroup per row of a complete chain. For penalties that do not stand first: how often each token of the window
// occurs. For DRY: for every earlier place that ends as the text ends now, how many tokens agree, and the token behind
// it, which would go on with the repetition. A sequence breaker ends the part of the text that can agree.

const uint LAST_MAX = 2048u;
const uint LONGEST = 65535u;
const uint NONE = 0xFFFFFFFFu;
shared uint s_token[LAST_MAX];      // newest first
shared uint s_length[LAST_MAX / 2u];    // two of 16 bits
shared uint s_limit;
shared uint s_count[2];

uint length_at(uint k) {
    return s_length[k / 2u] >> (16u * (k & 1u)) & 0xFFFFu;
}

void push_change(uint list, uint token, uint word) {
    uint at = atomicAdd(s_count[list], 1u);
    changes[(gl_WorkGroupID.x * 2u + list) * (p.H + 1u) + 1u + at] = uvec2(token, word);
}

void count_tokens(uint n) {
    for (uint i = gl_LocalInvocationIndex; i < n; i += WG) {
        uint id = s_token[i], count = 0u;
        bool first = id < p.V;
        for (uint j = 0u; j < n; j++) {
            bool same = s_token[j] == id;
            count += same ? 1u : 0u;
            first = first && !(same && j < i);
        }
        if (first) push_change(0u, id, count);
    }
}

bool breaks_alone(uint slot, uint token) {
    return (breaker_bits[slot * ((p.V + 31u) / 32u) + min(token, p.V - 1u) / 32u] >> (token & 31u) & 1u) != 0u;
}

// Tokens behind the first of the longest breaker that begins at place i; NONE where none does.
uint broken_at(uint slot, uint i, uint sequences) {
    uint longest = breaks_alone(slot, s_token[i]) ? 0u : NONE;
    for (uint q = 0u; q < sequences; q++) {
        uint at = (slot * p.NQ + q) * 24u;
        uint n = min(breakers[at], 20u);
        bool match = breakers[at + 1u] == s_token[i] && n <= i;
        for (uint j = 0u; j < n && match; j++) match = breakers[at + 2u + j] == s_token[i - 1u - j];
        if (match && (longest == NONE || n > longest)) longest = n;
    }
    return longest;
}

float power(float base, uint exponent) {
    precise float result = 1.0;
    precise float factor = base;
    for (uint bits = exponent; bits != 0u; bits >>= 1) {
        if ((bits & 1u) != 0u) result = result * factor;
        factor = factor * factor;
    }
    return result;
}

// Tokens at the end of the text that may count as repeated.
uint find_limit(uint slot, uint n, uint sequences) {
    for (uint i = gl_LocalInvocationIndex; i < n; i += WG) {
        uint longest = broken_at(slot, i, sequences);
        if (longest != NONE) atomicMin(s_limit, i * 32u + 31u - longest);
    }
    barrier();
    uint code = s_limit;
    return code == NONE ? n : code / 32u - (31u - code % 32u);
}

void find_repeats(uint row, uint slot, uint n) {
    uint o = slot * O_WORDS, tid = gl_LocalInvocationIndex;
    uint allowed = order[o + O_DRY_ALLOWED];
    if (n <= allowed) return;
    uint limit = find_limit(slot, n, min(order[o + O_BREAKERS], p.NQ));
    if (limit < allowed) return;
    for (uint k = 1u + tid; k < n; k += WG) {
        uint j = 0u;
        while (j < limit && j + k < n && s_token[j] == s_token[j + k]) j++;
        atomicOr(s_length[k / 2u], min(j, LONGEST) << (16u * (k & 1u)));
    }
    barrier();
    float multiplier = uintBitsToFloat(order[o + O_DRY_MULTIPLIER]), base = uintBitsToFloat(order[o + O_DRY_BASE]);
    uint most = order[o + O_DRY_LIMIT];
    for (uint k = 1u + tid; k < n; k += WG) {
        uint found = length_at(k), id = s_token[k - 1u];
        bool counts = found >= allowed && id < p.V;
        for (uint other = 1u; other < n && counts; other++) {
            uint length = length_at(other);
            bool better = length > found || (length == found && other < k);
            counts = !(better && s_token[other - 1u] == id);
        }
        if (!counts || breaks_alone(slot, id)) continue;
        uint exponent = found - allowed;
        if (most > 0u) exponent = min(exponent, most);
        precise float penalty = multiplier * power(base, exponent);
        push_change(1u, id, floatBitsToUint(penalty));
        if (order[o + O_DRY_FIRST] != 0u) {
            precise float x = logits[row * p.V + id];
            precise float less = x - penalty;
            logits[row * p.V + id] = x > LOWEST ? max(less, LOWEST) : x;
        }
    }
}

void main() {
    uint row = gl_WorkGroupID.x, tid = gl_LocalInvocationIndex;
    uint slot = row_slot[row];
    if (slot >= p.S) return;
    uint o = slot * O_WORDS;
    if (order[o + O_FINISH] == 0u) return;
    uint seen = min(min(hist_count[slot], p.H), LAST_MAX), newest = hist_count[slot] - 1u;
    uint counted = min(order[o + O_LAST_N], seen), window = min(order[o + O_DRY_LAST], seen);
    for (uint i = tid; i < max(counted, window); i += WG) s_token[i] = history[slot * p.H + (newest - i) % p.H];
    for (uint i = tid; i < (window + 1u) / 2u; i += WG) s_length[i] = 0u;
    if (tid < 2u) s_count[tid] = 0u;
    if (tid == 0u) s_limit = NONE;
    barrier();
    count_tokens(counted);
    find_repeats(row, slot, window);
    barrier();
    if (tid < 2u) changes[(row * 2u + tid) * (p.H + 1u)] = uvec2(s_count[tid], 0u);
}
