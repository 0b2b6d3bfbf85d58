// One workgroup: GROUP query heads that share a KV head, for one row and, with SPLIT, one chunk of its context. Page by
// page: every invocation scores PS / WG keys, then the workgroup adds up the values with the head's elements spread over the
// invocations. CHUNK pages make a result with its maximum and sum; those of a row's chunks are folded in their order. Nothing
// depends on other rows, pages come in the order of their positions: a row has the same bits alone and in any batch, split
// over workgroups or not. A row whose slot is not in the table is padding and gives zeros.
#version 450
#include "attention.contract.glsl"
#define ATTENTION_SPLIT
#include "include/attention_body.glsl"

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
