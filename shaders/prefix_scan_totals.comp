#version 450
#include "prefix_scan_totals.contract.glsl"
#include "include/scan.glsl"

#ifdef SCAN_FLOAT
#define AS_T(bits) uintBitsToFloat(bits)
#define AS_BITS(value) floatBitsToUint(value)
#else
#define AS_T(bits) (bits)
#define AS_BITS(value) (value)
#endif

// The sum of each block of 16 WG elements, in the order in which prefix_scan adds them.
void main() {
    uint start = 16u * (gl_WorkGroupID.x * WG + gl_LocalInvocationID.x);
    SCAN_T sum = SCAN_T(0), total;
    if (start + 16u <= p.N) {
        for (uint i = start / 4u; i < start / 4u + 4u; i++) {
            uvec4 v = x4[i];
            sum = sum + AS_T(v.x) + AS_T(v.y) + AS_T(v.z) + AS_T(v.w);
        }
    } else {
        for (uint i = start; i < p.N; i++) sum += AS_T(x[i]);
    }
    wg_exclusive(sum, total);
    if (gl_LocalInvocationID.x == 0u) totals[gl_WorkGroupID.x] = AS_BITS(total);
}
