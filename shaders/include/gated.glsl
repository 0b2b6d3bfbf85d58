// Body of the gated activations: y = ACTIVATION(x[:F]) * x[F:] for each row; X4(i) loads a vector.
#include "stretch.glsl"

void gated() {
    uint t = gl_LocalInvocationID.x, first = gl_WorkGroupID.x * p.items * WG, n = p.F / 4u;
    uint begin = first + stretch_begin(t, p.items), end = min(first + stretch_end(t, p.items), (p.F + 3u) / 4u);
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        uint gate = row * 2u * p.F, out_row = row * p.F;
        if (p.F % 4u == 0u) {
            for (uint i = begin; i < end; i += STRETCH_STEP)
                y4[out_row / 4u + i] = ACTIVATION(X4(gate / 4u + i)) * X4(gate / 4u + n + i);
        } else {
            for (uint i = begin; i < end; i += STRETCH_STEP)
                for (uint j = 4u * i; j < min(4u * i + 4u, p.F); j++)
                    y[out_row + j] = ACTIVATION(x[gate + j]) * x[gate + p.F + j];
        }
    }
}
