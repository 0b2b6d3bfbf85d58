// The product that gives q, k and v, for few-lane devices, and behind it in the same dispatch what only it made wait: the
// workgroup that is the last to finish a KV head's columns rotates its heads, stores keys and values, and attends. One
// dispatch instead of three, two barriers less. As matmul_lane, rope_store and attention_lane, bit for bit.
// A tile of NR columns lies within one head, and every KV head has `parts` of them (all its columns of this dispatch).
#version 450
#include "matmul_attention.contract.glsl"
#define GROUP_BARRIER subgroupBarrier
#include "include/attention_lane_body.glsl"
#include "include/rope_store_body.glsl"
#define MATMUL_TAIL
const uint ACT = 0u;
#include "include/matmul_lane.glsl"

// True in the last of the workgroups that share a counter, which then sees what all of them wrote.
bool last_part(uint at, uint parts) {
    memoryBarrierBuffer();
    subgroupBarrier();
    uint before = 0u;
    if (gl_SubgroupInvocationID == 0u) {
        before = atomicAdd(counters[at], 1u);
        if (before + 1u == parts) atomicExchange(counters[at], 0u);
    }
    before = subgroupShuffle(before, 0u);
    subgroupBarrier();
    memoryBarrierBuffer();
    return before + 1u == parts;
}

void main() {
    heads = p.heads;
    kv_heads = p.kv_heads;
    slots = p.slots;
    max_pages = p.max_pages;
    row_stride = p.y_stride;
    head_dim = HEAD_DIM;
    n_rot = p.n_rot;
    rope_mscale = p.mscale;
    rope_eps = p.rope_eps;
    normed_q = p.has_qnorm != 0u;
    normed_k = p.has_knorm != 0u;
    attn_window = p.window;
    attn_scale = p.scale;
    attn_cap = p.softcap;
    uint R = p.R, parts = p.parts, y_offset = p.y_offset;
    uint tile = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x, tiles = (R + NT - 1u) / NT;
    product(tile);

    uint head = (y_offset + tile / tiles * NR) / HEAD_DIM, group = heads / kv_heads;
    uint kv_head = head < heads ? head / group : (head - heads) % kv_heads;
    if (!last_part(tile % tiles * kv_heads + kv_head, parts)) return;
    uint row = tile % tiles * NT, end = min(row + NT, R);
    do {
        uint h = 0u;
        do rope_store_head(row, kv_head * group + h); while (++h < group);
        rope_store_head(row, heads + kv_head);
        rope_store_head(row, heads + kv_heads + kv_head);
    } while (++row < end);
    memoryBarrierBuffer();
    subgroupBarrier();
    row = tile % tiles * NT;
    do {
        uint block = 0u;
        do attend(row, kv_head, block, 0u, 0xFFFFFFFFu); while (++block * GROUP < group);
    } while (++row < end);
}
