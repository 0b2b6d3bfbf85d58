// What the host tells the optimiser in `knobs` (flux_vk/gpu/optimizer.py), and the walk over all parameters.

#include "stretch.glsl"

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

// Where a step is not `good` nothing but the gradients changes, bit for bit. STEP4(i) does vector i, CLEAR4(i) only sets
// its gradients to 0; STEP1(i, good) does one element. The elements behind the last vector go to the first invocation of
// the workgroup that would have the next one.
void walk(bool good) {
    uint whole = p.P / 4u, first = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG * ITEMS;
    uint t = gl_LocalInvocationID.x;
    uint begin = first + stretch_begin(t, ITEMS), end = min(first + stretch_end(t, ITEMS), whole);
    if (good) for (uint i = begin; i < end; i += STRETCH_STEP) STEP4(i);
    else for (uint i = begin; i < end; i += STRETCH_STEP) CLEAR4(i);
    bool own = t == 0u && first <= whole && whole < first + WG * ITEMS;
    for (uint i = own ? 4u * whole : p.P; i < p.P; i++) STEP1(i, good);
}
