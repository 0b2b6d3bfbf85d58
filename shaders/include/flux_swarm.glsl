// What a row and the swarm of its slot are: words of `row_info` and `swarm`, effective weights. Expects p.S and p.P
// (places for agents a slot) and the buffers that the functions name.

const uint INFO_WORDS = 8u;     // row_info
const uint INFO_N = 0u;         // candidates; 0: nobody votes for this row
const uint INFO_BEST = 1u;      // float, largest logit
const uint INFO_ENTROPY = 2u;   // float, nats
const uint INFO_LSE = 3u;       // float, logsumexp of the row
const uint INFO_POS = 4u;       // position of the token to be drawn
const uint INFO_SEED_LO = 5u;
const uint INFO_SEED_HI = 6u;
const uint INFO_SLOT = 7u;      // not below S: the row is left out

const uint SWARM_WORDS = 8u;    // swarm; flux_vk/decode/agents.py packs them in this order
const uint SWARM_AGENTS = 0u;
const uint SWARM_MODE = 1u;
const uint SWARM_RATE = 2u;     // float, of trust
const uint SWARM_CANDIDATES = 3u;

const uint MODE_SUM = 0u;
const uint MODE_PROB = 1u;
const uint MODE_BORDA = 2u;
const uint MODE_MAJORITY = 3u;

const uint NEG_INF_BITS = 0xFF800000u;
