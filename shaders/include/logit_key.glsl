// Logits as integers that have their order, and the blocks whose largest key the samplers start from.

// A block is 64 logits that one thread of sample_stats reads: 16 vectors of 4, 64 vectors apart. Neighbouring tokens
// fall into different blocks, so that a cluster of likely tokens does not fill one block.
const uint BLOCK_LANES = 64u;
const uint BLOCK_VECS = 16u;

// The block that a token belongs to.
uint block_of(uint token) { return token / (4u * BLOCK_LANES * BLOCK_VECS) * BLOCK_LANES + (token >> 2) % BLOCK_LANES; }

const uint KEY_NEG_INF = 0x007FFFFFu;   // key of -inf (and of NaN); 0 is the key of "no element here"

// Larger float <=> larger key. NaN counts as -inf, +inf as the largest finite float, -0 as +0.
uint key_of(float x) {
    uint b = floatBitsToUint(x);
    uint a = b & 0x7FFFFFFFu;
    b = a == 0u ? 0u : b;
    uint key = (b & 0x80000000u) != 0u ? ~b : (b | 0x80000000u);
    key = b == 0x7F800000u ? 0xFF7FFFFFu : key;
    return a > 0x7F800000u ? KEY_NEG_INF : key;
}
