#version 450
#include "sort_count.contract.glsl"
#include "include/radix.glsl"

// How often each digit occurs in each block: counts[digit][block].
void main() {
    uint t = gl_LocalInvocationID.x, block = gl_WorkGroupID.x;
    uint first = (block * WG + t) * ITEMS;
    count_digits(first, min(first + ITEMS, p.N));
    barrier();
    if (t < DIGITS) {
        uint sum = 0u;
        for (uint i = 0u; i < WG; i++) sum += digit_count[t * WG + i];
        counts[t * p.B + block] = sum;
    }
}
