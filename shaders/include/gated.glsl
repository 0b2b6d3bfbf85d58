// Body of the gated activations: y = ACTIVATION(x[:F]) * x[F:] for each row, four elements an invocation.

void gated() {
    uint i = gl_GlobalInvocationID.x;
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        if (p.F % 4u == 0u) {
            uint n = p.F / 4u, gate = row * 2u * n;
            if (i < n) y4[row * n + i] = ACTIVATION(x4[gate + i]) * x4[gate + n + i];
        } else {
            uint gate = row * 2u * p.F;
            for (uint j = 4u * i; j < min(4u * i + 4u, p.F); j++)
                y[row * p.F + j] = ACTIVATION(x[gate + j]) * x[gate + p.F + j];
        }
    }
}
