#version 450
#include "prefix_scan.contract.glsl"
#include "include/scan.glsl"

#ifdef SCAN_FLOAT
#define AS_T(bits) uintBitsToFloat(bits)
#define AS_BITS(value) floatBitsToUint(value)
#else
#define AS_T(bits) (bits)
#define AS_BITS(value) (value)
#endif

// Inclusive sums of one block of 16 WG elements a workgroup, 16 neighbours an invocation, on top of what all blocks
// before it add up to (before[block - 1], itself an inclusive scan of the blocks' totals).
void main() {
    uint block = gl_WorkGroupID.x;
    uint start = 16u * (block * WG + gl_LocalInvocationID.x);
    SCAN_T sum = SCAN_T(0), total;
    if (start + 16u <= p.N) {
        for (uint i = start / 4u; i < start / 4u + 4u; i++) {
            uvec4 v = x4[i];
            sum = sum + AS_T(v.x) + AS_T(v.y) + AS_T(v.z) + AS_T(v.w);
        }
    } else {
        for (uint i = start; i < p.N; i++) sum += AS_T(x[i]);
    }
    SCAN_T running = wg_exclusive(sum, total);
    if (p.has_before != 0u && block > 0u) running += AS_T(before[block - 1u]);
    if (start + 16u <= p.N) {
        for (uint i = start / 4u; i < start / 4u + 4u; i++) {
            uvec4 v = x4[i];
            uvec4 r;
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                running += AS_T(v[j]);
                r[j] = AS_BITS(running);
            }
            y4[i] = r;
        }
    } else {
        for (uint i = start; i < p.N; i++) {
            running += AS_T(x[i]);
            y[i] = AS_BITS(running);
        }
    }
}
