// Collecting the largest logits of a row with one workgroup: block maxima -> bound -> short list in shared memory.
// Expects: WG (workgroup size), p.V, p.NB, buffers logits / logits4 and maxima / maxima4. The list's order is not
// fixed; whoever reads it goes by (key, id), which is.

#include "sample_row.glsl"

shared uint s_key[CAP];
shared uint s_id[CAP];
shared uint s_hi[CAP];          // mass parts; before that, the blocks to be searched
shared uint s_lo[CAP];
shared uint s_red;
shared uint s_hits;
shared uint s_n;

uint wg_max(uint v) {
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_red = 0u;
    barrier();
    v = subgroupMax(v);
    if (subgroupElect()) atomicMax(s_red, v);
    barrier();
    return s_red;
}

uint wg_add(uint v) {
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_red = 0u;
    barrier();
    v = subgroupAdd(v);
    if (subgroupElect()) atomicAdd(s_red, v);
    barrier();
    return s_red;
}

uint row_max(uint row) {
    uvec4 best = uvec4(0u);
    for (uint i = gl_LocalInvocationIndex; i < p.NB / 4u; i += WG) best = max(best, maxima4[row * (p.NB / 4u) + i]);
    return wg_max(max(max(best.x, best.y), max(best.z, best.w)));
}

// A key that at least k block maxima (hence k logits) reach, near the largest such key; 0 where there are not k blocks.
uint kth_bound(uint row, uint k, uint highest) {
    uint lo = 0u, hi = highest;
    while (lo < hi) {
        uint mid = hi - (hi - lo) / 2u;
        uint n = 0u;
        for (uint i = gl_LocalInvocationIndex; i < p.NB / 4u; i += WG) {
            uvec4 hit = uvec4(greaterThanEqual(maxima4[row * (p.NB / 4u) + i], uvec4(mid)));
            n += hit.x + hit.y + hit.z + hit.w;
        }
        n = wg_add(n);
        if (n >= k) {
            lo = mid;
            if (n <= k + k / 8u) break;
        } else {
            hi = mid - 1u;
        }
    }
    return lo;
}

void push_entry(uint key, uint id) {
    uint at = atomicAdd(s_n, 1u);
    if (at < CAP) {
        s_key[at] = key;
        s_id[at] = id;
    }
}

// All logits whose key is at least `bound` into the list; returns how many, more than CAP: the list is not complete.
uint collect(uint row, uint bound) {
    uint tid = gl_LocalInvocationIndex;
    bound = max(bound, 1u);
    barrier();
    if (tid == 0u) {
        s_hits = 0u;
        s_n = 0u;
    }
    barrier();
    for (uint i = tid; i < p.NB / 4u; i += WG) {
        uvec4 m = maxima4[row * (p.NB / 4u) + i];
        if (max(max(m.x, m.y), max(m.z, m.w)) >= bound) {
            for (uint c = 0u; c < 4u; c++) {
                if (m[c] >= bound) {
                    uint at = atomicAdd(s_hits, 1u);
                    if (at < CAP) s_hi[at] = 4u * i + c;
                }
            }
        }
    }
    barrier();
    uint hits = s_hits;
    if (hits > CAP) return CAP + 1u;
    for (uint t = tid; t < hits * BLOCK_VECS; t += WG) {
        uint block = s_hi[t / BLOCK_VECS];
        uint lane = block % BLOCK_LANES;
        uint i = (block - lane) * BLOCK_VECS + lane + BLOCK_LANES * (t % BLOCK_VECS);
        uvec4 key = load_keys(row, i);
        if (max(max(key.x, key.y), max(key.z, key.w)) >= bound) {
            for (uint c = 0u; c < 4u; c++) {
                if (key[c] >= bound) push_entry(key[c], 4u * i + c);
            }
        }
    }
    barrier();
    return s_n;
}
