#version 450
#include "shuffle.contract.glsl"
#include "include/philox.glsl"

// flux_vk/gpu/reference/shuffle.py does the same, step by step.
const uint DOMAIN = 0x53485546u;  // keeps these random words apart from those of other uses of a seed

// A bijection of 32 bits with good avalanche (Wellons 2018, "lowbias32").
uint mixed(uint h) {
    h ^= h >> 16u;
    h *= 0x7feb352du;
    h ^= h >> 15u;
    h *= 0x846ca68bu;
    return h ^ (h >> 16u);
}

// Eight rounds: each half in turn gets a number added that the other half and the round's two keys choose.
uint round_of(uint x, uint key_in, uint key_out) { return mixed(mixed(x + key_in) ^ key_out); }

uint ceil_sqrt(uint n) {
    uint root = 0u;
    for (uint bit = 0x8000u; bit > 0u; bit /= 2u) {
        uint more = root | bit;
        if (more * more <= n) root = more;
    }
    return root * root < n ? root + 1u : root;
}

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x;
    uint total = p.total != 0u ? p.total : p.N;
    if (i >= p.N || p.first + i >= total) return;
    uint A = ceil_sqrt(total), B = (total + A - 1u) / A;
    uvec4 keys[4];
    for (uint k = 0u; k < 4u; k++)
        keys[k] = philox4x32_10(uvec4(k, p.epoch, 0u, DOMAIN), uvec2(p.seed_lo, p.seed_hi));
    uint x = p.first + i;
    do {
        uint a = x / B, b = x % B;
        for (uint k = 0u; k < 4u; k++) {
            a = (a + round_of(b, keys[k].x, keys[k].y) % A) % A;
            b = (b + round_of(a, keys[k].z, keys[k].w) % B) % B;
        }
        x = a * B + b;
    } while (x >= total);
    order[i] = x;
}
