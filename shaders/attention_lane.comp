// Attention for few-lane devices where a load from a storage buffer costs every lane a branch (llvmpipe): queries, keys and
// values are texel buffers; eight lanes, no shared memory. A lane scores every eighth key of a page; the queries are loaded once by the eight lanes
// together and handed round by shuffles, and so are the weights, with the head's elements spread over the lanes.
// For head sizes that are multiples of 32 and subgroups of at least eight. Otherwise as attention.comp: nothing depends
// on other rows, pages come in the order of their positions.
#version 450
#include "attention.contract.glsl"
#define ATTENTION_SPLIT
#include "include/attention_lane_body.glsl"

void main() {
    heads = p.heads;
    kv_heads = p.kv_heads;
    slots = p.slots;
    max_pages = p.max_pages;
    row_stride = p.q_stride;
    attn_window = p.window;
    attn_scale = p.scale;
    attn_cap = p.softcap;
    uint blocks = (heads / kv_heads + GROUP - 1u) / GROUP;
    uint row = gl_WorkGroupID.x, kv_head = gl_WorkGroupID.y / blocks, block = gl_WorkGroupID.y % blocks;
    uint first = 0u, end = 0xFFFFFFFFu;
    if (SPLIT != 0u) {  // one chunk each, the last takes what is left; without room for parts, one takes all
        bool shared_out = p.has_partial != 0u && p.has_counters != 0u;
        uint z = gl_WorkGroupID.z, last = shared_out ? gl_NumWorkGroups.z - 1u : 0u;
        first = z > last ? end : z;
        if (z < last) end = z + 1u;
    }
    attend(row, kv_head, block, first, end);
}
