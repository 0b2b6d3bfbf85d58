// The product that gives q, k and v, for GPUs, and behind it in the same dispatch rope_store: the workgroup that is the last
// to finish a head's columns rotates it, or stores it in the cache. As matmul_wide and rope_store, bit for bit.
// A tile of NR columns lies within one head, and every head has `parts` of them.
#version 450
#include "matmul_rope.contract.glsl"
const uint ACT = 0u;
#include "include/matmul_wide.glsl"
#include "include/rope_store_body.glsl"

shared uint arrived;

// True in the last of the workgroups that share a counter, which then sees what all of them wrote.
bool last_part(uint at, uint parts) {
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationID.x == 0u) {
        arrived = atomicAdd(counters[at], 1u) + 1u;
        if (arrived == parts) atomicExchange(counters[at], 0u);
    }
    barrier();
    memoryBarrierBuffer();
    return arrived == parts;
}

void main() {
    heads = p.heads;
    kv_heads = p.kv_heads;
    slots = p.slots;
    max_pages = p.max_pages;
    row_stride = p.y_stride;
    head_dim = p.head_dim;
    n_rot = p.n_rot;
    rope_mscale = p.mscale;
    rope_eps = p.rope_eps;
    normed_q = p.has_qnorm != 0u;
    normed_k = p.has_knorm != 0u;
    uint tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x, tiles = (p.R + NT - 1u) / NT;
    product(tile);
    uint head = (p.y_offset + tile / tiles * NR) / head_dim;
    if (!last_part(tile % tiles * (heads + 2u * kv_heads) + head, p.parts)) return;
    uint end = min((tile % tiles + 1u) * NT, p.R);
    for (uint row = tile % tiles * NT; row < end; row++) rope_store_head(row, head);
}
