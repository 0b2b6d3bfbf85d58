// Sum over a workgroup of WG invocations (a power of two) by pairs: log2(WG) roundings on the way of each number, and one
// order on every device. Every invocation must call it; the next call may follow at once.

shared float pair_slot[WG];

float pair_sum(float v) {
    uint t = gl_LocalInvocationID.x;
    barrier();
    pair_slot[t] = v;
    barrier();
    for (uint s = WG / 2u; s > 0u; s /= 2u) {
        if (t < s) pair_slot[t] += pair_slot[t + s];
        barrier();
    }
    return pair_slot[0];
}
