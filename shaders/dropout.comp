#version 450
#include "dropout.contract.glsl"
#include "include/philox.glsl"

// Four elements an invocation, the words of one counter. `before` is what y holds.
uvec4 dropped(uint i, uvec4 bits, uvec4 before) {
    uvec4 at = counter4[0];
    bvec4 keep = greaterThanEqual(philox4x32_10(uvec4(i, at.z, p.site, 0u), at.xy), uvec4(p.threshold));
    precise vec4 scaled = uintBitsToFloat(bits) * p.scale;
    uvec4 made = mix(uvec4(0u), p.threshold == 0u ? bits : floatBitsToUint(scaled), keep);
    precise vec4 total = uintBitsToFloat(before) + uintBitsToFloat(made);
    return p.accumulate != 0u ? floatBitsToUint(total) : made;
}

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x;
    if (i < p.n / 4u) {
        y4[i] = dropped(i, x4[i], p.accumulate != 0u ? y4[i] : uvec4(0u));
    } else if (i == p.n / 4u) {
        uvec4 bits = uvec4(0u), before = uvec4(0u);
        for (uint j = 4u * i; j < p.n; j++) {
            bits[j % 4u] = x[j];
            before[j % 4u] = y[j];
        }
        bits = dropped(i, bits, before);
        for (uint j = 4u * i; j < p.n; j++) y[j] = bits[j % 4u];
    }
}
