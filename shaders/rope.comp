#version 450
#include "rope.contract.glsl"
#include "include/sincos.glsl"

// An invocation rotates four neighbouring pairs of one head of one row.
void main() {
    uint pairs = p.n_rot / 2u;
    uint quads = (pairs + 3u) / 4u;
    uint item = gl_GlobalInvocationID.x;
    if (item >= p.heads * quads) return;
    uint head = item / quads;
    uint pair = 4u * (item - head * quads);
    bool aligned = ((p.stride | p.offset | p.head_dim | pairs) & 3u) == 0u;
    for (uint row = gl_WorkGroupID.y; row < p.R; row += gl_NumWorkGroups.y) {
        uint base = row * p.stride + p.offset + head * p.head_dim;
        uint position = pos[row];
        vec4 sine, cosine;
        if (aligned) {
            uint first = NEOX != 0u ? (base + pair) / 4u : (base + 2u * pair) / 4u;
            uint second = NEOX != 0u ? first + pairs / 4u : first + 1u;
            sincos_turns(turns4[pair / 4u] * position, sine, cosine);
            sine *= p.mscale;
            cosine *= p.mscale;
            vec4 u = x4[first], v = x4[second];
            vec4 a = NEOX != 0u ? u : vec4(u.x, u.z, v.x, v.z);
            vec4 b = NEOX != 0u ? v : vec4(u.y, u.w, v.y, v.w);
            vec4 c = a * cosine - b * sine;
            vec4 d = a * sine + b * cosine;
            x4[first] = NEOX != 0u ? c : vec4(c.x, d.x, c.y, d.y);
            x4[second] = NEOX != 0u ? d : vec4(c.z, d.z, c.w, d.w);
        } else {
            for (uint i = pair; i < min(pair + 4u, pairs); i++) {
                uint first = base + (NEOX != 0u ? i : 2u * i);
                uint second = first + (NEOX != 0u ? pairs : 1u);
                sincos_turns(uvec4(turns[i] * position), sine, cosine);
                float a = x[first], b = x[second];
                float c = cosine.x * p.mscale, s = sine.x * p.mscale;
                x[first] = a * c - b * s;
                x[second] = a * s + b * c;
            }
        }
    }
}
