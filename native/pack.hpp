// Repacking of weight rows on the CPU: GGUF blocks into the planes that flux_vk/formats/layout.py describes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace flux {

// One exchange of bits (formats/bits.py, Swap) with its masks repeated to eight words.
struct PackSwap {
    uint32_t width = 8;
    uint32_t distance = 0;
    uint32_t shift = 0;
    uint64_t mask[8] = {};
};

// One field of a block and the plane it becomes. Codecs other than Shuffle have no cells and no swaps.
struct PackField {
    enum Codec : uint64_t { Shuffle, ScaleMin, Scale16, Scale8 };
    uint64_t codec = Shuffle;
    size_t at = 0;      // first byte in the block
    size_t offset = 0;  // of the plane in the row
    size_t out = 0;     // bytes of the plane a block
    std::vector<uint32_t> order;  // 16-byte cells of the field, in the order of the plane; empty: as they are
    std::vector<PackSwap> swaps;
};

// What a type needs: the block's bytes and its fields in the order of their planes.
struct PackProgram {
    // `words` is what layout.program() gives; throws std::invalid_argument where it makes no sense.
    explicit PackProgram(const std::vector<uint64_t>& words);
    size_t block_bytes = 0;
    std::vector<PackField> fields;

    // rows x blocks blocks at `source` -> rows of `stride` bytes at `out`, gaps between the planes zero. `out` is
    // written once in rising order and never read.
    void run(const uint8_t* source, size_t rows, size_t blocks, uint8_t* out, size_t stride) const;
};

}  // namespace flux
