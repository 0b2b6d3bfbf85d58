#version 450
#include "rms_norm_backward.contract.glsl"
#include "include/reduce.glsl"

// One workgroup a row. Sums are taken as rms_norm takes them. dx may be g: a workgroup reads its row before it writes.
void main() {
    uint row = group_index(), D = p.D;
    float eps = p.eps;
    bool more = p.accumulate != 0u;
    if (row >= p.R) return;
    uint t = gl_LocalInvocationID.x;
    if (D % 4u == 0u) {
        uint n = D / 4u, base = row * n;
        vec4 squares = vec4(0.0), products = vec4(0.0);
        for (uint i = t; i < n; i += WG) {
            vec4 v = x4[base + i];
            squares += v * v;
            products += v * (g4[base + i] * w4[i]);
        }
        float mean = wg_sum((squares.x + squares.y) + (squares.z + squares.w)) / float(D) + eps;
        float pull = wg_sum((products.x + products.y) + (products.z + products.w)) / float(D) / mean;
        float scale = 1.0 / sqrt(mean);
        for (uint i = t; i < n; i += WG) {
            vec4 d = scale * (g4[base + i] * w4[i] - x4[base + i] * pull);
            dx4[base + i] = more ? dx4[base + i] + d : d;
        }
    } else {
        uint base = row * D;
        float squares = 0.0, products = 0.0;
        for (uint i = t; i < D; i += WG) {
            float v = x[base + i];
            squares += v * v;
            products += v * (g[base + i] * w[i]);
        }
        float mean = wg_sum(squares) / float(D) + eps;
        float pull = wg_sum(products) / float(D) / mean;
        float scale = 1.0 / sqrt(mean);
        for (uint i = t; i < D; i += WG) {
            float d = scale * (g[base + i] * w[i] - x[base + i] * pull);
            dx[base + i] = more ? dx[base + i] + d : d;
        }
    }
}
