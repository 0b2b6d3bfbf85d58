// The candidate that was drawn, found by its logit. Expects the buffers cand and logits, and p.C and p.V; after
// sample_math.glsl.

uint list_row;

uint list_key(uint i) { return key_of(uintBitsToFloat(cand[list_row * p.C + i].y)); }
uint list_id(uint i) { return cand[list_row * p.C + i].x; }
#include "flux_find.glsl"

// Its place among n candidates, or n where the token is none of them.
uint chosen_place(uint row, uint token, uint n) {
    if (n == 0u || token >= p.V) return n;
    list_row = row;
    uint at = place_of(key_of(logits[row * p.V + token]), token, 0u, n);
    bool found = at < n && list_id(min(at, n - 1u)) == token;
    return found ? at : n;
}
