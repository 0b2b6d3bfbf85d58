#version 450
#include "top_k.contract.glsl"
#define SCAN_T uint
#include "include/scan.glsl"
#include "include/order.glsl"

// The K largest elements of a row in falling order (equal ones in rising index order, NaN last), one workgroup a row, from
// the block maxima of top_k_blocks. The K-th largest maximum bounds the result from below, so only blocks above it are
// read. Where more than CAPACITY elements exceed that bound, the exact K-th key is selected first; equal keys beyond the
// bound are taken in index order, however many there are.

const uint CAPACITY = 1024u;
const uint BLOCK = 64u;

shared uint histogram[WG];  // WG = 256 = one bin for each value of a byte
shared uint chosen_bin, chosen_rank, found;
shared uint found_key[CAPACITY], found_index[CAPACITY];

uint row;

uvec4 keys_at(uint e) {
    uvec4 v;
    if (p.D % 4u == 0u) {
        v = x4[(row * p.D + e) / 4u];
    } else {
        uint base = row * p.D, last = p.D - 1u;
        v = uvec4(x[base + e], x[base + min(e + 1u, last)], x[base + min(e + 2u, last)], x[base + min(e + 3u, last)]);
    }
    return uvec4(order_key(v.x, 0u), order_key(v.y, 0u), order_key(v.z, 0u), order_key(v.w, 0u));
}

void tally(uint key, uint prefix, uint shift) {
    if (shift == 24u || (key >> (shift + 8u)) == prefix) atomicAdd(histogram[(key >> shift) & 255u], 1u);
}

// The rank-th largest key (rank counts from 1) among the block maxima, or among the elements of blocks that reach `lowest`.
uint select_key(bool elements, uint lowest, uint rank) {
    uint t = gl_LocalInvocationID.x, prefix = 0u;
    for (uint round = 0u; round < 4u; round++) {
        uint shift = 24u - 8u * round;
        histogram[t] = 0u;
        barrier();
        for (uint b = t; b < p.NB; b += WG) {
            uint top = maxima[row * p.NB + b];
            if (!elements) {
                tally(top, prefix, shift);
            } else if (top >= lowest) {
                for (uint e = b * BLOCK; e < min((b + 1u) * BLOCK, p.D); e += 4u) {
                    uvec4 keys = keys_at(e);
                    for (uint j = 0u; j < min(4u, p.D - e); j++) tally(keys[j], prefix, shift);
                }
            }
        }
        barrier();
        uint total, count = histogram[255u - t];
        uint above = wg_exclusive(count, total);
        if (above < rank && rank <= above + count) {
            chosen_bin = 255u - t;
            chosen_rank = rank - above;
        }
        barrier();
        prefix = (prefix << 8u) | chosen_bin;
        rank = chosen_rank;
    }
    return prefix;
}

// Collects all elements with keys above `bound`; `found` counts them also where they no longer fit.
void collect(uint bound) {
    uint t = gl_LocalInvocationID.x;
    if (t == 0u) found = 0u;
    barrier();
    for (uint b = t; b < p.NB; b += WG) {
        if (maxima[row * p.NB + b] > bound) {
            for (uint e = b * BLOCK; e < min((b + 1u) * BLOCK, p.D); e += 4u) {
                uvec4 keys = keys_at(e);
                for (uint j = 0u; j < min(4u, p.D - e); j++) {
                    if (keys[j] > bound) {
                        uint slot = atomicAdd(found, 1u);
                        if (slot < CAPACITY) {
                            found_key[slot] = keys[j];
                            found_index[slot] = e + j;
                        }
                    }
                }
            }
        }
    }
    barrier();
}

// Appends the first elements equal to `bound` until `wanted` are there, block after block in index order.
void collect_equal(uint bound, uint have, uint wanted) {
    uint t = gl_LocalInvocationID.x;
    for (uint first = 0u; first < p.NB && have < wanted; first += WG) {
        uint b = first + t;
        bool candidate = b < p.NB && maxima[row * p.NB + min(b, p.NB - 1u)] >= bound;
        uint begin = b * BLOCK, end = candidate ? min((b + 1u) * BLOCK, p.D) : begin;
        uint count = 0u, total;
        for (uint e = begin; e < end; e += 4u) {
            uvec4 keys = keys_at(e);
            for (uint j = 0u; j < min(4u, p.D - e); j++) count += keys[j] == bound ? 1u : 0u;
        }
        uint slot = have + wg_exclusive(count, total);
        end = count > 0u && slot < wanted ? end : begin;
        for (uint e = begin; e < end; e += 4u) {
            uvec4 keys = keys_at(e);
            for (uint j = 0u; j < min(4u, p.D - e); j++) {
                if (keys[j] == bound) {
                    if (slot < wanted) {
                        found_key[slot] = bound;
                        found_index[slot] = e + j;
                    }
                    slot++;
                }
            }
        }
        have += total;
    }
    barrier();
}

void main() {
    uint t = gl_LocalInvocationID.x;
    row = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    if (row >= p.R) return;
    uint wanted = min(min(p.K, p.D), CAPACITY);
    uint bound = 0u;
    for (uint attempt = 0u; attempt < 2u; attempt++) {
        if (attempt == 1u || p.NB >= wanted) bound = select_key(attempt == 1u, bound, wanted);
        collect(bound);
        if (found <= CAPACITY) break;
    }
    uint count = found;
    barrier();
    if (count < wanted) {
        collect_equal(bound, count, wanted);
        count = wanted;
    }
    for (uint i = t; i < count; i += WG) {
        uint key = found_key[i], index = found_index[i], rank = 0u;
        for (uint j = 0u; j < count; j++) {
            uint other = found_key[j];
            rank += other > key || (other == key && found_index[j] < index) ? 1u : 0u;
        }
        if (rank < wanted) {
            values[row * p.K + rank] = x[row * p.D + index];
            indices[row * p.K + rank] = index;
        }
    }
    for (uint i = wanted + t; i < p.K; i += WG) {
        values[row * p.K + i] = 0xff800000u;
        indices[row * p.K + i] = 0xffffffffu;
    }
}
