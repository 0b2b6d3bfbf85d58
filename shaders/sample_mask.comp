#version 450
#include "sample_mask.contract.glsl"

// One thread: 32 neighbouring tokens, which is one word of the mask.

#define LEFT_OUT uintBitsToFloat(0xFF800000u)   // -inf

void main() {
    uint row = gl_WorkGroupID.y, word = gl_GlobalInvocationID.x;
    uint slot = row_slot[row];
    if (slot >= p.S || word >= p.W) return;
    uint bits = masked[slot] != 0u ? masks[slot * p.W + word] : 0xFFFFFFFFu;
    uint first = 32u * word, end = min(first + 32u, p.V);
    if ((p.V & 3u) == 0u) {
        uint at = row * (p.V >> 2);
        for (uint i = first >> 2; i < end >> 2; i++) {
            bvec4 kept = notEqual((uvec4(bits) >> uvec4(0u, 1u, 2u, 3u)) & 1u, uvec4(0u));
            y4[at + i] = mix(vec4(LEFT_OUT), logits4[at + i], kept);
            bits >>= 4;
        }
        return;
    }
    for (uint t = first; t < end; t++) {
        y[row * p.V + t] = (bits & 1u) != 0u ? logits[row * p.V + t] : LEFT_OUT;
        bits >>= 1;
    }
}
