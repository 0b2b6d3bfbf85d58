// rms_norm_backward.comp with a row for each invocation, for CPU drivers: no sum needs another lane, and what is read is
// read as texels. For widths that are multiples of 4. dx may be g: a row is read before it is written.
#version 450
#include "rms_norm_backward.contract.glsl"

vec4 texel(uvec4 bits) { return uintBitsToFloat(bits); }

void main() {
    uint rows = p.R, n = p.D / 4u;
    float width = float(p.D), eps = p.eps;
    bool more = p.accumulate != 0u;
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint wanted = group * WG + gl_LocalInvocationID.x, base = min(wanted, rows - 1u) * n;
    vec4 squares = vec4(0.0), products = vec4(0.0);
    uint i = 0u;
    do {
        vec4 v = texel(texelFetch(x_texels, int(base + i)));
        vec4 h = texel(texelFetch(g_texels, int(base + i))) * texel(texelFetch(w_texels, int(i)));
        squares = fma(v, v, squares);
        products = fma(v, h, products);
    } while (++i < n);
    float mean = ((squares.x + squares.y) + (squares.z + squares.w)) / width + eps;
    float pull = ((products.x + products.y) + (products.z + products.w)) / width / mean;
    float scale = 1.0 / sqrt(mean);
    if (wanted >= rows) return;
    i = 0u;
    do {
        vec4 v = texel(texelFetch(x_texels, int(base + i)));
        vec4 h = texel(texelFetch(g_texels, int(base + i))) * texel(texelFetch(w_texels, int(i)));
        vec4 d = scale * (h - v * pull);
        if (more) d += dx4[base + i];
        dx4[base + i] = d;
    } while (++i < n);
}
