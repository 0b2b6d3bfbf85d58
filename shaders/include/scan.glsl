// Exclusive sum over a workgroup of WG invocations (a multiple of 16) through shared memory; SCAN_T is uint or float.
// `total` receives the sum over the whole workgroup. Every invocation must call it; the order is the same everywhere.

const uint WG_CHUNK = 16u;
shared SCAN_T scan_slot[WG];
shared SCAN_T scan_chunk[WG / WG_CHUNK + 1u];

SCAN_T wg_exclusive(SCAN_T v, out SCAN_T total) {
    uint t = gl_LocalInvocationID.x;
    scan_slot[t] = v;
    barrier();
    if (t < WG / WG_CHUNK) {
        SCAN_T sum = SCAN_T(0);
        for (uint i = t * WG_CHUNK; i < (t + 1u) * WG_CHUNK; i++) {
            SCAN_T next = sum + scan_slot[i];
            scan_slot[i] = sum;
            sum = next;
        }
        scan_chunk[t] = sum;
    }
    barrier();
    SCAN_T before = SCAN_T(0);
    SCAN_T all = SCAN_T(0);
    for (uint i = 0u; i < WG / WG_CHUNK; i++) {
        before = i == t / WG_CHUNK ? all : before;
        all += scan_chunk[i];
    }
    total = all;
    SCAN_T result = before + scan_slot[t];
    barrier();
    return result;
}
