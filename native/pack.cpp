#include "pack.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace flux {

static constexpr size_t BATCH = 8192;  // bytes of a plane in work at once: they stay in the first cache
static constexpr size_t PAD = 256;     // zeros behind them, which swaps look at and never change

PackProgram::PackProgram(const std::vector<uint64_t>& words) {
    size_t pos = 0;
    auto next = [&]() -> uint64_t {
        if (pos >= words.size()) throw std::invalid_argument("a packing program ends too soon");
        return words[pos++];
    };
    block_bytes = next();
    fields.resize(std::min<uint64_t>(next(), 16));
    for (auto& f : fields) {
        f.codec = next();
        f.at = next();
        f.offset = next();
        f.out = next();
        f.order.resize(std::min<uint64_t>(next(), 64));
        for (auto& cell : f.order) cell = uint32_t(next());
        f.swaps.resize(std::min<uint64_t>(next(), 16));
        for (auto& s : f.swaps) {
            s.width = uint32_t(next());
            s.distance = uint32_t(next());
            s.shift = uint32_t(next());
            const uint64_t n = next();
            if (n != 1 && n != 2 && n != 4 && n != 8) throw std::invalid_argument("a swap needs 1, 2, 4 or 8 masks");
            uint64_t masks[8];
            for (uint64_t i = 0; i < n; i++) masks[i] = next();
            if ((s.width != 4 && s.width != 8) || s.distance * s.width > PAD || s.shift >= 8 * s.width)
                throw std::invalid_argument("a swap of this width and distance is not known");
            for (uint64_t i = 0; i < 8; i++) s.mask[i] = masks[i % n];
        }
        size_t taken = f.out;
        if (f.codec == PackField::ScaleMin || f.codec == PackField::Scale16) taken = 12;
        if (f.codec == PackField::Scale8) taken = 6;
        for (auto cell : f.order)
            if ((cell + 1) * 16 > f.out) throw std::invalid_argument("a cell lies outside its field");
        if (f.codec > PackField::Scale8 || f.out == 0 || f.out > BATCH || f.at + taken > block_bytes ||
            (!f.order.empty() && f.order.size() * 16 != f.out))
            throw std::invalid_argument("a field lies outside its block");
    }
}

namespace {

template <class T>
T load(const uint8_t* p) {
    T x;
    std::memcpy(&x, p, sizeof(T));
    return x;
}

template <size_t N>
void copy_cells(const uint8_t* source, size_t step, size_t n, uint8_t* to) {
    for (size_t i = 0; i < n; i++) std::memcpy(to + i * N, source + i * step, N);
}

void copy_field(const uint8_t* source, size_t step, size_t n, size_t size, uint8_t* to) {
    switch (size) {
        case 2: return copy_cells<2>(source, step, n, to);
        case 4: return copy_cells<4>(source, step, n, to);
        case 16: return copy_cells<16>(source, step, n, to);
        case 32: return copy_cells<32>(source, step, n, to);
        case 64: return copy_cells<64>(source, step, n, to);
        case 128: return copy_cells<128>(source, step, n, to);
        default:
            for (size_t i = 0; i < n; i++) std::memcpy(to + i * size, source + i * step, size);
    }
}

// Delta swap of all words at once: bits (mask << shift) of word i change places with the bits mask of i + distance.
template <class T>
void swap_words(T* x, T* t, size_t words, const PackSwap& s) {
    T mask[8];
    for (size_t i = 0; i < 8; i++) mask[i] = T(s.mask[i]);
    const uint32_t shift = s.shift, d = s.distance;
    for (size_t i = 0; i < words; i += 8)
        for (size_t j = 0; j < 8; j++) t[i + j] = (T(x[i + j] >> shift) ^ x[i + j + d]) & mask[j];
    for (size_t i = 0; i < words; i++) x[i] ^= T(t[i] << shift);
    for (size_t i = 0; i < words; i++) x[i + d] ^= t[i];
}

// Byte i of the word goes to byte 2 i.
uint64_t spread(uint32_t x) {
    uint64_t y = x;
    y = (y | y << 16) & 0x0000FFFF0000FFFFull;
    return (y | y << 8) & 0x00FF00FF00FF00FFull;
}

constexpr uint32_t LOW6 = 0x3F3F3F3Fu, LOW4 = 0x0F0F0F0Fu, TOP2 = 0x30303030u, LOW2 = 0x03030303u;

void scale_min(const uint8_t* p, uint8_t* to) {
    const uint32_t a = load<uint32_t>(p), b = load<uint32_t>(p + 4), c = load<uint32_t>(p + 8);
    const uint64_t pairs[2] = {
        spread(a & LOW6) | spread(b & LOW6) << 8,
        spread((c & LOW4) | (a >> 2 & TOP2)) | spread((c >> 4 & LOW4) | (b >> 2 & TOP2)) << 8,
    };
    std::memcpy(to, pairs, 16);
}

// Every byte less 32; bytes are below 64, so bit 7 keeps them apart.
uint64_t less_32(uint64_t x) {
    const uint64_t top = 0x8080808080808080ull;
    return ((x | top) - 0x2020202020202020ull) ^ top;
}

void scale_16(const uint8_t* p, uint8_t* to) {
    const uint32_t a = load<uint32_t>(p), b = load<uint32_t>(p + 4), c = load<uint32_t>(p + 8);
    const uint32_t s[4] = {
        (a & LOW4) | (c & LOW2) << 4,
        (b & LOW4) | (c >> 2 & LOW2) << 4,
        (a >> 4 & LOW4) | (c >> 4 & LOW2) << 4,
        (b >> 4 & LOW4) | (c >> 6 & LOW2) << 4,
    };
    uint64_t pairs[2];
    std::memcpy(pairs, s, 16);
    for (auto& x : pairs) x = less_32(x);
    std::memcpy(to, pairs, 16);
}

void scale_8(const uint8_t* p, uint8_t* to) {
    uint64_t high = load<uint16_t>(p);
    const uint32_t low = load<uint32_t>(p + 2);
    high = (high | high << 24) & 0x000000FF000000FFull;
    high = (high | high << 12) & 0x000F000F000F000Full;
    high = (high | high << 6) & 0x0303030303030303ull;
    const uint64_t x = less_32(spread(low & LOW4) | spread(low >> 4 & LOW4) << 8 | high << 4);
    std::memcpy(to, &x, 8);
}

void encode(const PackField& f, const uint8_t* source, size_t step, size_t n, uint8_t* to) {
    switch (f.codec) {
        case PackField::ScaleMin:
            for (size_t i = 0; i < n; i++) scale_min(source + i * step, to + i * 16);
            return;
        case PackField::Scale16:
            for (size_t i = 0; i < n; i++) scale_16(source + i * step, to + i * 16);
            return;
        case PackField::Scale8:
            for (size_t i = 0; i < n; i++) scale_8(source + i * step, to + i * 8);
            return;
        default: break;
    }
    if (f.swaps.empty() && f.order.empty()) return copy_field(source, step, n, f.out, to);
    alignas(64) uint8_t data[BATCH + 2 * PAD];
    alignas(64) uint8_t scratch[BATCH + 2 * PAD];
    const size_t bytes = n * f.out;
    if (f.order.empty()) {
        copy_field(source, step, n, f.out, data);
    } else {
        for (size_t c = 0; c < f.order.size(); c++)
            for (size_t i = 0; i < n; i++)
                std::memcpy(data + i * f.out + c * 16, source + i * step + f.order[c] * 16, 16);
    }
    std::memset(data + bytes, 0, 2 * PAD);
    // Whole groups of eight words: those behind the end are zeros, and no mask reaches from the data into them.
    for (const auto& s : f.swaps) {
        const size_t words = (bytes / s.width + 7) / 8 * 8;
        if (s.width == 8)
            swap_words(reinterpret_cast<uint64_t*>(data), reinterpret_cast<uint64_t*>(scratch), words, s);
        else
            swap_words(reinterpret_cast<uint32_t*>(data), reinterpret_cast<uint32_t*>(scratch), words, s);
    }
    std::memcpy(to, data, bytes);
}

}  // namespace

void PackProgram::run(const uint8_t* source, size_t rows, size_t blocks, uint8_t* out, size_t stride) const {
    for (size_t r = 0; r < rows; r++, out += stride, source += blocks * block_bytes) {
        size_t written = 0;
        for (const auto& f : fields) {
            if (f.offset > written) std::memset(out + written, 0, f.offset - written);
            const size_t most = BATCH / f.out;
            for (size_t i = 0; i < blocks; i += most)
                encode(f, source + i * block_bytes + f.at, block_bytes, std::min(most, blocks - i), out + f.offset + i * f.out);
            written = f.offset + blocks * f.out;
        }
        if (stride > written) std::memset(out + written, 0, stride - written);
    }
}

}  // namespace flux
