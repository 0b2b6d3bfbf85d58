// Body of the elementwise operations of two arrays: y = OP(a, b), where b repeats from its start as often as needed
// (b of one row is added to every row). Four elements an invocation.

void binary() {
    uint n = p.R * p.D, nb = p.Rb * p.D;
    uint i = gl_WorkGroupID.y * gl_NumWorkGroups.x * WG + gl_GlobalInvocationID.x;
    if (p.D % 4u == 0u) {
        if (i < n / 4u) {
            uint ib = n == nb ? i : i % (nb / 4u);
            y4[i] = OP(a4[i], b4[ib]);
        }
    } else {
        for (uint j = 4u * i; j < min(4u * i + 4u, n); j++) y[j] = OP(a[j], b[n == nb ? j : j % nb]);
    }
}
