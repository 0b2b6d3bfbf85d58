#version 450
#include "layer_norm.contract.glsl"
#include "include/reduce.glsl"

// One workgroup a row. The row's first element is taken off before anything is summed, and the variance is summed from
// differences to the mean: a large common offset costs no accuracy, and a constant row is exactly zero.
void main() {
    uint row = group_index();
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    float count = float(p.D);
    if (p.D % 4u == 0u) {
        uint n = p.D / 4u, base = row * n;
        float first = x4[base].x;
        vec4 sums = vec4(0.0);
        for (uint i = t; i < n; i += WG) sums += x4[base + i] - first;
        float mean = wg_sum((sums.x + sums.y) + (sums.z + sums.w)) / count;
        sums = vec4(0.0);
        for (uint i = t; i < n; i += WG) {
            vec4 v = (x4[base + i] - first) - mean;
            sums += v * v;
        }
        float scale = 1.0 / sqrt(wg_sum((sums.x + sums.y) + (sums.z + sums.w)) / count + p.eps);
        for (uint i = t; i < n; i += WG) {
            vec4 v = ((x4[base + i] - first) - mean) * scale * w4[i];
            if (p.has_b != 0u) v += b4[i];
            y4[base + i] = v;
        }
    } else {
        uint base = row * p.D;
        float first = x[base], sum = 0.0;
        for (uint i = t; i < p.D; i += WG) sum += x[base + i] - first;
        float mean = wg_sum(sum) / count;
        sum = 0.0;
        for (uint i = t; i < p.D; i += WG) {
            float v = (x[base + i] - first) - mean;
            sum += v * v;
        }
        float scale = 1.0 / sqrt(wg_sum(sum) / count + p.eps);
        for (uint i = t; i < p.D; i += WG) {
            float v = ((x[base + i] - first) - mean) * scale * w[i];
            if (p.has_b != 0u) v += b[i];
            y[base + i] = v;
        }
    }
}
