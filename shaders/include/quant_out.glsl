// Eight dequantised weights to their place in y (views `y` and `y4`), for kernels that write whole rows as float32.

// at: where the row starts in y; b, i: sub-block and quarter of it, as in q_read.
void q_write(uint at, uint k, uint b, uint i, vec4 low, vec4 high) {
    uint first = b * 32u + i * 4u;
#if Q_FLOAT
    [[unroll]] for (uint c = 0u; c < 4u; c++) {      // K need not be a multiple of four
        if (first + c < k) y[at + first + c] = low[c];
        if (first + 16u + c < k) y[at + first + 16u + c] = high[c];
    }
#else
    y4[(at + first) >> 2] = low;
    y4[(at + first + 16u) >> 2] = high;
#endif
}
