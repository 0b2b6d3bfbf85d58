#version 450
#include "sort.contract.glsl"
#define SCAN_T uint
#include "include/radix.glsl"
#include "include/scan.glsl"

shared uint digit_base[DIGITS];

// Moves each element to its place for this digit: elements with lower digits, then those of the same digit in earlier
// blocks (both from `scanned`, the inclusive scan of counts[digit][block]), then those before it in the block.
void main() {
    uint t = gl_LocalInvocationID.x, block = gl_WorkGroupID.x;
    uint first = (block * WG + t) * ITEMS, end = min(first + ITEMS, p.N);
    count_digits(first, end);
    barrier();
    uint sum = 0u, total;
    for (uint i = 0u; i < DIGITS; i++) sum += digit_count[t * DIGITS + i];
    uint running = wg_exclusive(sum, total);
    for (uint i = 0u; i < DIGITS; i++) {
        uint count = digit_count[t * DIGITS + i];
        digit_count[t * DIGITS + i] = running;
        running += count;
    }
    barrier();
    if (t < DIGITS) {
        uint entry = t * p.B + block;
        digit_base[t] = (entry == 0u ? 0u : scanned[entry - 1u]) - digit_count[t * WG];
    }
    barrier();
    for (uint i = first; i < end; i++) {
        uint bits = keys[i];
        uint d = digit_of(bits);
        uint place = digit_base[d] + digit_count[d * WG + t]++;
        keys_out[place] = bits;
        values_out[place] = p.has_values != 0u ? values[i] : i;
    }
}
