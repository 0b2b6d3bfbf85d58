// A slot that does not exist gives token 0 at position 0. Where a grid is wanted, the first workgroup looks at every row:
// attention's third axis must reach the chunks of the row that sees most.
#version 450
#include "fetch_rows.contract.glsl"
#include "include/attention_span.glsl"

shared uint most[2];

void write_grids() {
    uint t = gl_LocalInvocationID.x;
    if (t < 2u) most[t] = 1u;
    barrier();
    for (uint r = t; r < p.R; r += WG) {
        uint s = slot[r];
        if (s >= p.S) continue;
        uvec2 info = slot_info4[s].xy;
        atomicMax(most[0], span_chunks(visible_span(slot_pos[s], info, 0u, 0xFFFFFFFFu)));
        atomicMax(most[1], span_chunks(visible_span(slot_pos[s], info, p.window, 0xFFFFFFFFu)));
    }
    barrier();
    if (t < 2u) grid4[t] = uvec4(p.R, p.blocks, most[t], 0u);
}

void main() {
    uint r = gl_GlobalInvocationID.x;
    if (p.has_grid != 0u && gl_WorkGroupID.x == 0u) write_grids();
    if (r >= p.R) return;
    uint s = slot[r];
    bool inside = s < p.S;
    s = inside ? s : 0u;
    ids[r] = inside ? slot_token[s] : 0u;
    pos[r] = inside ? slot_pos[s] : 0u;
}
