// What the host tells the optimiser in `knobs` (flux_vk/gpu/optimizer.py), and the walk over all parameters.

struct Knobs {
    float lr, weight_decay, correction1, correction2;  // corrections: 1 - beta^t
    float beta1, beta2, eps, momentum;
    float rest1, rest2;                                // 1 - beta, which 32 bits of beta alone do not give
};

Knobs read_knobs() {
    vec4 a = knobs4[0], b = knobs4[1], c = knobs4[2];
    float rest1 = c.z != 0.0 ? c.z : 1.0 - b.z, rest2 = c.w != 0.0 ? c.w : 1.0 - b.w;
    return Knobs(a.x, a.y, a.z, a.w, b.z, b.w, c.x, c.y, rest1, rest2);
}

// STEP4(i) does vector i, STEP1(i) element i; CLEAR4 and CLEAR1 only set their gradients to 0. The elements behind the
// last vector go to the invocation that would have the next one.
void walk(bool good) {
    uint whole = p.P / 4u, group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint begin = group * WG * ITEMS + gl_LocalInvocationID.x, end = min(begin + WG * ITEMS, whole);
    if (good) for (uint i = begin; i < end; i += WG) STEP4(i);
    else for (uint i = begin; i < end; i += WG) CLEAR4(i);
    bool own = begin <= whole && whole < begin + WG * ITEMS && (whole - begin) % WG == 0u;
    for (uint i = own ? 4u * whole : p.P; i < p.P; i++) {
        if (good) STEP1(i);
        else CLEAR1(i);
    }
}
