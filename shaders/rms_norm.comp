#version 450
#include "rms_norm.contract.glsl"
#include "include/reduce.glsl"

// One workgroup a row. Each invocation sums every WG-th element (or group of four), then the workgroup's fixed order.
void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    float sum = 0.0;
    if (p.D % 4u == 0u) {
        uint n = p.D / 4u, base = row * n;
        vec4 sums = vec4(0.0);
        for (uint i = t; i < n; i += WG) {
            vec4 v = x4[base + i];
            sums += v * v;
        }
        sum = wg_sum((sums.x + sums.y) + (sums.z + sums.w));
        float scale = 1.0 / sqrt(sum / float(p.D) + p.eps);
        for (uint i = t; i < n; i += WG) y4[base + i] = x4[base + i] * scale * w4[i];
    } else {
        uint base = row * p.D;
        for (uint i = t; i < p.D; i += WG) sum += x[base + i] * x[base + i];
        sum = wg_sum(sum);
        float scale = 1.0 / sqrt(sum / float(p.D) + p.eps);
        for (uint i = t; i < p.D; i += WG) y[base + i] = x[base + i] * scale * w[i];
    }
}
