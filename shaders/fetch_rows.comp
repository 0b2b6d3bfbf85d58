#version 450
#include "fetch_rows.contract.glsl"

// A slot that does not exist gives token 0 at position 0.
void main() {
    uint r = gl_GlobalInvocationID.x;
    if (r >= p.R) return;
    uint s = slot[r];
    bool inside = s < p.S;
    s = inside ? s : 0u;
    ids[r] = inside ? slot_token[s] : 0u;
    pos[r] = inside ? slot_pos[s] : 0u;
}
