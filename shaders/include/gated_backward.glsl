// Body of the gated activations' gradients, in place: gate becomes g * up * act'(gate), up becomes g * act(gate).
// SLOPE(x, y) is act'(x), given y = act(x); X4(i) and G4(i) load a vector.
#include "stretch.glsl"

void gated_backward() {
    uint t = gl_LocalInvocationID.x, first = gl_WorkGroupID.x * p.items * WG, n = p.F / 4u;
    uint begin = first + stretch_begin(t, p.items), end = min(first + stretch_end(t, p.items), (p.F + 3u) / 4u);
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        if (p.F % 4u == 0u) {
            for (uint i = begin; i < end; i += STRETCH_STEP) {
                uint at = row * 2u * n + i;
                vec4 gate = X4(at), up = X4(at + n), d = G4(row * n + i);
                vec4 y = ACTIVATION(gate);
                x4[at] = d * up * SLOPE(gate, y);
                x4[at + n] = d * y;
            }
        } else {
            for (uint i = begin; i < end; i += STRETCH_STEP) {
                for (uint j = 4u * i; j < min(4u * i + 4u, p.F); j++) {
                    uint at = row * 2u * p.F + j;
                    vec4 gate = vec4(x[at]), y = ACTIVATION(gate);
                    float up = x[at + p.F], d = g[row * p.F + j];
                    x[at] = d * up * SLOPE(gate, y).x;
                    x[at + p.F] = d * y.x;
                }
            }
        }
    }
}
