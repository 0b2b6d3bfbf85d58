// Tiles of attention in training, in shared memory: OWN rows that the workgroup owns (queries, or keys in the gradient of
// keys and values) against VIS rows that visit it, CH elements of a head at a time. An invocation of WG = 128 has OWN / 16
// owned rows (its own y + 16 i) and four visitors (x + 8 j) of a score tile, and four elements of those rows of a result.
//
// Every sum runs over visitors or elements in rising order, whatever OWN is: the shape decides no bits.
// Wants the constants HEAD_DIM, OWN. Less than 16 KiB of shared memory.

const uint VIS = 32u, CH = 32u, LINE = CH / 4u;  // LINE: vec4 of a row's piece
const uint MINE = OWN / 16u;                     // owned rows of an invocation
const uint SCORES = 4u * MINE;                   // scores of an invocation
const uint CHUNKS = (HEAD_DIM + CH - 1u) / CH, UNITS = HEAD_DIM / 4u;
const uint PITCH = LINE + 1u;                    // one vec4 more a row: neighbouring rows lie in other banks

shared vec4 own_tile[OWN * PITCH];               // pieces of owned rows, then weights [OWN][VIS]
shared vec4 visitor_tile[VIS * PITCH];

uint tile_x() { return gl_LocalInvocationID.x % 8u; }
uint tile_y() { return gl_LocalInvocationID.x / 8u; }

// Puts count rows from row `first` on of an array of vec4 (clamped to rows up to last) in a tile: piece c of the head that
// begins `head` vec4 into each row. Zero past the head.
#define LOAD_TILE(tile, count, array, first, last, stride, head, c)                                       \
    for (uint n = gl_LocalInvocationID.x; n < (count) * LINE; n += 128u) {                                \
        uint tile_row = n / LINE, unit = (c) * LINE + n % LINE;                                           \
        uint tile_from = min((first) + tile_row, last) * (stride) + (head) + min(unit, UNITS - 1u);       \
        tile[tile_row * PITCH + n % LINE] = unit < UNITS ? array[tile_from] : vec4(0.0);                  \
    }

// score[i][j] += owned row i times visitor j, for the pieces in the tiles.
void multiply_tiles(inout float score[SCORES]) {
    for (uint k = 0u; k < LINE; k++) {
        vec4 b[4];
        [[unroll]] for (uint j = 0u; j < 4u; j++) b[j] = visitor_tile[(tile_x() + 8u * j) * PITCH + k];
        [[unroll]] for (uint i = 0u; i < MINE; i++) {
            vec4 a = own_tile[(tile_y() + 16u * i) * PITCH + k];
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                [[unroll]] for (uint e = 0u; e < 4u; e++) score[i * 4u + j] = fma(a[e], b[j][e], score[i * 4u + j]);
            }
        }
    }
}

// Weights of this invocation's rows and visitors to the tile of owned rows, in the place of their pieces.
void put_weights(float weight[SCORES]) {
    [[unroll]] for (uint i = 0u; i < MINE; i++) {
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            uint visitor = tile_x() + 8u * j;
            own_tile[(tile_y() + 16u * i) * PITCH + visitor / 4u][visitor % 4u] = weight[i * 4u + j];
        }
    }
}

// result[i] += weights of owned row i times the visitors' four elements that are this invocation's.
void add_visitors(inout vec4 result[MINE]) {
    for (uint v = 0u; v < VIS / 4u; v++) {
        vec4 b[4];
        [[unroll]] for (uint e = 0u; e < 4u; e++) b[e] = visitor_tile[(4u * v + e) * PITCH + tile_x()];
        [[unroll]] for (uint i = 0u; i < MINE; i++) {
            vec4 w = own_tile[(tile_y() + 16u * i) * PITCH + v];
            [[unroll]] for (uint e = 0u; e < 4u; e++) result[i] = fma(vec4(w[e]), b[e], result[i]);
        }
    }
}
