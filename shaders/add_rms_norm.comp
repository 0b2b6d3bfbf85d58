#version 450
#include "add_rms_norm.contract.glsl"
#include "include/reduce.glsl"

// rms_norm of x + r; the sum is stored for the residual stream. Every invocation reads back only what it wrote itself,
// so s may be the same memory as x or r.
void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    float sum = 0.0;
    if (p.D % 4u == 0u) {
        uint n = p.D / 4u, base = row * n;
        vec4 sums = vec4(0.0);
        for (uint i = t; i < n; i += WG) {
            vec4 v = x4[base + i] + r4[base + i];
            s4[base + i] = v;
            sums += v * v;
        }
        sum = wg_sum((sums.x + sums.y) + (sums.z + sums.w));
        float scale = 1.0 / sqrt(sum / float(p.D) + p.eps);
        for (uint i = t; i < n; i += WG) y4[base + i] = s4[base + i] * scale * w4[i];
    } else {
        uint base = row * p.D;
        for (uint i = t; i < p.D; i += WG) {
            float v = x[base + i] + r[base + i];
            s[base + i] = v;
            sum += v * v;
        }
        sum = wg_sum(sum);
        float scale = 1.0 / sqrt(sum / float(p.D) + p.eps);
        for (uint i = t; i < p.D; i += WG) y[base + i] = s[base + i] * scale * w[i];
    }
}
