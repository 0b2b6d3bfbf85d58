// Attention of training by eight lanes, for few-lane devices where a load from a storage buffer costs every lane a branch
// (llvmpipe): a workgroup is eight invocations without shared memory, and owns eight rows of one head, a lane each. Rows
// that visit are read by the eight lanes together, four elements a lane at a time, as texels: their elements are handed
// round by shuffles for the scores, and stay where they are for the sums, whose elements are spread over the lanes.
//
// Wants the constant HEAD_DIM. Everything is unrolled: local arrays become registers and spills of them.

const uint LANES = 8u, VIS = 8u;                     // VIS: visitors at a time
const uint QUADS = HEAD_DIM / 4u;
const uint SHARES = (HEAD_DIM + 31u) / 32u;          // vec4 of a visitor in a lane: elements (share * 8 + lane) * 4 ...
const uint VISITED = VIS * SHARES, SUMS = LANES * SHARES;

// Four elements at a place of a texel buffer.
#define FETCH(texels, at) uintBitsToFloat(texelFetch(texels, int(at)))

// The elements of the lane's own row, which begins at vec4 `at`.
#define LOAD_OWNED(texels, at, owned)                                                                        \
    [[unroll]] for (uint i = 0u; i < QUADS; i++) owned[i] = FETCH(texels, (at) + i);

// The lane's shares of VIS rows from row `first` on (none past `last`), whose head begins `head` vec4 into a row.
#define LOAD_VISITORS(texels, first, last, stride, head, visitors)                                           \
    [[unroll]] for (uint j = 0u; j < VIS; j++) {                                                             \
        uint visitor_at = min((first) + j, last) * (stride) + (head);                                        \
        [[unroll]] for (uint s = 0u; s < SHARES; s++) {                                                      \
            uint quad = s * LANES + lane;                                                                    \
            vec4 share = FETCH(texels, visitor_at + min(quad, QUADS - 1u));                                  \
            visitors[j * SHARES + s] = HEAD_DIM % 32u == 0u || quad < QUADS ? share : vec4(0.0);             \
        }                                                                                                    \
    }

// score[j] += this lane's row times visitor j, in the order of the elements.
void multiply(vec4 owned[QUADS], vec4 visitors[VISITED], inout float score[VIS]) {
    [[unroll]] for (uint e = 0u; e < HEAD_DIM; e++) {
        [[unroll]] for (uint j = 0u; j < VIS; j++) {
            float element = subgroupShuffle(visitors[j * SHARES + e / 32u][e & 3u], (e & 31u) >> 2);
            score[j] = fma(owned[e / 4u][e & 3u], element, score[j]);
        }
    }
}

// sums of row l += weight[j] of lane l times visitor j, in the order of the visitors.
void add_visitors(float weight[VIS], vec4 visitors[VISITED], inout vec4 sums[SUMS]) {
    [[unroll]] for (uint l = 0u; l < LANES; l++) {
        [[unroll]] for (uint j = 0u; j < VIS; j++) {
            vec4 w = vec4(subgroupShuffle(weight[j], l));
            [[unroll]] for (uint s = 0u; s < SHARES; s++) {
                sums[l * SHARES + s] = fma(w, visitors[j * SHARES + s], sums[l * SHARES + s]);
            }
        }
    }
}
