#version 450
#include "grad_clip.contract.glsl"
#include "include/pair_sum.glsl"

// One workgroup; sums with compensation as in grad_norm. Without parts the norm is 0.
void main() {
    uint t = gl_LocalInvocationID.x;
    precise float sum = 0.0, lost = 0.0;
    for (uint i = t; i < p.N; i += WG) {
        precise float more = parts[i] - lost;
        precise float next = sum + more;
        lost = (next - sum) - more;
        sum = next;
    }
    float all = pair_sum(sum - lost);
    if (t != 0u) return;
    float max_norm = knobs[4], inverse = knobs[5];
    float norm = sqrt(all) * inverse;
    bool finite = (floatBitsToUint(norm) & 0x7f800000u) != 0x7f800000u;
    float factor = max_norm > 0.0 ? inverse * min(1.0, max_norm / (norm + 1e-6)) : inverse;
    stats[0] = norm;
    stats[1] = finite ? factor : 0.0;
    stats[2] = finite ? 1.0 : 0.0;
    stats[3] = 0.0;
}
