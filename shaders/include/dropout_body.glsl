// Body of dropout; X4(i) and Y4(i) are vector i of x and of what y holds, as bits.
#include "philox.glsl"
#include "stretch.glsl"

const uint ITEMS = 4u;  // vectors of an invocation

// Four elements, the words of one counter. `before` is what y holds.
uvec4 dropped(uint i, uvec4 bits, uvec4 before, uvec4 at) {
    bvec4 keep = greaterThanEqual(philox4x32_10(uvec4(i, at.z, p.site, 0u), at.xy), uvec4(p.threshold));
    precise vec4 scaled = uintBitsToFloat(bits) * p.scale;
    uvec4 made = mix(uvec4(0u), floatBitsToUint(scaled), keep);
    precise vec4 total = uintBitsToFloat(before) + uintBitsToFloat(made);
    return p.accumulate != 0u ? floatBitsToUint(total) : p.threshold == 0u ? bits : made;
}

void main() {
    uint first = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG * ITEMS, whole = p.n / 4u;
    uint t = gl_LocalInvocationID.x, end = min(first + stretch_end(t, ITEMS), whole);
    uvec4 at = counter4[0];
    for (uint i = first + stretch_begin(t, ITEMS); i < end; i += STRETCH_STEP)
        y4[i] = dropped(i, X4(i), p.accumulate != 0u ? Y4(i) : uvec4(0u), at);
    // What is behind the last vector goes to the first invocation of the workgroup that would have the next one.
    bool own = t == 0u && first <= whole && whole < first + WG * ITEMS;
    for (uint j = own ? 4u * whole : p.n; j < p.n; j++)
        y[j] = dropped(whole, uvec4(x[j]), uvec4(p.accumulate != 0u ? y[j] : 0u), at)[j % 4u];
}
