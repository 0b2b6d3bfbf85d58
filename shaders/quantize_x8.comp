// Activation rows as int8 in blocks of 32, or their RMS norm times a weight: WG threads make WG / 8 blocks of a row, four
// values a thread. With a norm every workgroup sums the squares of the whole row, in one order.
#version 450
#include "quantize_x8.contract.glsl"
#include "include/reduce.glsl"

shared uint largest[WG];             // bits of |x|: ordered like the numbers, infinity and NaN above them all
shared int sums[WG];

vec4 values(uint row, uint i) {      // values 4i..4i+3, zero past K; i below 8 nb
    vec4 v = vec4(0.0);
    if ((p.x_stride | p.K) % 4u == 0u) return 4u * i < p.K ? x4[row * (p.x_stride >> 2) + i] : v;
    [[unroll]] for (uint c = 0u; c < 4u; c++)
        if (4u * i + c < p.K) v[c] = x[row * p.x_stride + 4u * i + c];
    return v;
}

void main() {
    uint t = gl_LocalInvocationID.x, nb = (p.K + 31u) >> 5, groups = (nb + WG / 8u - 1u) / (WG / 8u);
    uint group = group_index(), row = group / groups;
    if (row >= p.R) return;
    float scale = 1.0;
    if (p.has_norm != 0u) {
        float sum = 0.0;
        for (uint i = t; i < nb * 8u; i += WG) {
            vec4 v = values(row, i);
            sum = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, sum))));
        }
        scale = 1.0 / sqrt(wg_sum(sum) / float(p.K) + p.eps);
    }
    uint b = (group % groups) * (WG / 8u) + t / 8u, i = t % 8u;
    vec4 v = vec4(0.0);
    if (b < nb) v = values(row, b * 8u + i);
    if (p.has_norm != 0u)
        [[unroll]] for (uint c = 0u; c < 4u; c++) {
            uint k = b * 32u + i * 4u + c;
            if (k < p.K) v[c] = v[c] * scale * norm[k];
        }
    uvec4 size = floatBitsToUint(abs(v));
    largest[t] = max(max(size.x, size.y), max(size.z, size.w));
    barrier();
    uint top = 0u;
    [[unroll]] for (uint j = 0u; j < 8u; j++) top = max(top, largest[(t & ~7u) + j]);
    float most = uintBitsToFloat(top), d = most / 127.0;
    ivec4 q = ivec4(0);
    if (top >= 0x7f800000u) d = uintBitsToFloat(0x7fc00000u);       // infinity or NaN in the block: every product is NaN
    else if (most < 1.5e-36) d = 0.0;                                 // where d would not be a normal number
    else q = clamp(ivec4(roundEven(v * (127.0 / most))), -127, 127);
    sums[t] = q.x + q.y + q.z + q.w;
    barrier();
    if (b >= nb) return;
    uint at = row * p.S, word = (uint(q.x) & 255u) | (uint(q.y) & 255u) << 8 | (uint(q.z) & 255u) << 16 | uint(q.w) << 24;
    x8[at + (i >> 2) * nb * 4u + b * 4u + (i & 3u)] = word;
    uint scales = at + nb * 8u;
    if (i == 0u) {
        x8[scales + b * 2u] = floatBitsToUint(d);
    } else if (i == 1u) {
        uint first = t & ~7u;
        int low = sums[first] + sums[first + 1u] + sums[first + 2u] + sums[first + 3u];
        int high = sums[first + 4u] + sums[first + 5u] + sums[first + 6u] + sums[first + 7u];
        x8[scales + b * 2u + 1u] = (uint(low) & 0xffffu) | uint(high) << 16;
    } else if (i < 4u && b + 1u == nb && (nb & 1u) != 0u) {
        x8[scales + nb * 2u + i - 2u] = 0u;                         // rows are whole pieces of 16 bytes
    }
}
