// Digits of the radix sort: 4 bits a pass, 16 elements an invocation, counters digit[16][WG] in shared memory, each
// invocation adding to its own column only. KEY 0: unsigned keys, 1: floats (NaN last in both directions). DESC 1: reversed.

#include "include/order.glsl"

const uint DIGITS = 16u;
const uint ITEMS = 16u;
shared uint digit_count[DIGITS * WG];

uint digit_of(uint bits) {
    uint key = KEY == 1u ? order_key(bits, DESC == 1u ? 0u : 0xffffffffu) : bits;
    return ((DESC == 1u ? ~key : key) >> p.shift) & (DIGITS - 1u);
}

void count_digits(uint first, uint end) {
    uint t = gl_LocalInvocationID.x;
    for (uint d = 0u; d < DIGITS; d++) digit_count[d * WG + t] = 0u;
    for (uint i = first; i < end; i++) digit_count[digit_of(keys[i]) * WG + t]++;
}
