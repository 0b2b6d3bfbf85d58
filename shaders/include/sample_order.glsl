// Words of a slot of a complete chain; flux_vk/decode/words.py packs them in this order. Numbers are as llama.cpp has
// them, shares of probability in units of 2^-32.

const uint O_FINISH = 0u;           // how the token is chosen, one of the constants below; 0: not by sample_ordered
const uint O_STEPS = 1u;            // samplers before that, 4 bits each from O_CODES on
const uint O_CODES = 2u;
const uint O_TOP_K = 4u;
const uint O_TOP_P = 5u;            // share
const uint O_MIN_P = 6u;            // float, ln(min_p)
const uint O_TEMPERATURE = 7u;      // float
const uint O_RANGE = 8u;            // float, of the dynamic temperature; 0: off
const uint O_EXPONENT = 9u;         // float
const uint O_SIGMA = 10u;           // float
const uint O_TYPICAL = 11u;         // share
const uint O_XTC_CHANCE = 12u;      // share; P_OFF: always
const uint O_XTC_THRESHOLD = 13u;   // share
const uint O_DRY_MULTIPLIER = 14u;  // float
const uint O_DRY_BASE = 15u;        // float
const uint O_DRY_ALLOWED = 16u;
const uint O_DRY_LAST = 17u;        // 0: no DRY
const uint O_DRY_LIMIT = 18u;       // largest exponent; 0: none
const uint O_DRY_FIRST = 19u;       // 1: sample_repeats applies it, because nothing but penalties stands before
const uint O_BREAKERS = 20u;        // sequences of more than one token
const uint O_LAST_N = 21u;          // of penalties that do not stand first; 0: none
const uint O_TAU = 22u;             // float
const uint O_ETA = 23u;             // float
const uint O_TARGET = 24u;          // float
const uint O_DECAY = 25u;           // float
const uint O_WORDS = 32u;

const uint FINISH_DRAW = 1u;
const uint FINISH_MIROSTAT = 2u;
const uint FINISH_MIROSTAT2 = 3u;
const uint FINISH_ADAPTIVE = 4u;

const uint TOP_K = 1u;
const uint TYPICAL = 2u;
const uint TOP_P = 3u;
const uint MIN_P = 4u;
const uint XTC = 5u;
const uint TEMPERATURE = 6u;
const uint TOP_N_SIGMA = 7u;
const uint PENALTIES = 8u;
const uint DRY = 9u;

const uint TAG_XTC = 0x58544331u;   // of its random bits: the counter's last word, 0 for the draw
const float LOWEST = -3.0e38;       // a penalty makes no token impossible, so that something is always left

// What the choice of the token begins with, as further steps.
const uint BEST_100 = 10u;          // mirostat 1: the list of the best, to learn from,
const uint MIROSTAT_K = 11u;        // then the k best of all
const uint MIROSTAT_2 = 12u;        // mirostat 2: those of little surprise
const uint ADAPTIVE = 13u;
const uint CHOOSE = 14u;            // the draw; the last step
