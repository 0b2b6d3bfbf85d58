// Body of the gated activations' gradients, in place: gate becomes g * up * act'(gate), up becomes g * act(gate).
// SLOPE(x, y) is act'(x), given y = act(x). Four elements an invocation.

void gated_backward() {
    uint i = gl_GlobalInvocationID.x;
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        if (p.F % 4u == 0u) {
            uint n = p.F / 4u, at = row * 2u * n + i;
            if (i < n) {
                vec4 gate = x4[at], up = x4[at + n], d = g4[row * n + i];
                vec4 y = ACTIVATION(gate);
                x4[at] = d * up * SLOPE(gate, y);
                x4[at + n] = d * y;
            }
        } else {
            uint at = row * 2u * p.F;
            for (uint j = 4u * i; j < min(4u * i + 4u, p.F); j++) {
                vec4 gate = vec4(x[at + j]), y = ACTIVATION(gate);
                float up = x[at + p.F + j], d = g[row * p.F + j];
                x[at + j] = d * up * SLOPE(gate, y).x;
                x[at + p.F + j] = d * y.x;
            }
        }
    }
}
