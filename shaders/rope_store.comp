// One workgroup for one head of one row: the heads of q, then k, then v. q is rotated in place; k and v go to the cache.
// A row whose slot is not in the table is padding: nothing is done. A row beyond its slot's pages stores nothing.
#version 450
#include "rope_store.contract.glsl"
#include "include/rope_store_body.glsl"

void main() {
    heads = p.heads;
    kv_heads = p.kv_heads;
    slots = p.slots;
    max_pages = p.max_pages;
    row_stride = p.row_stride;
    head_dim = p.head_dim;
    n_rot = p.n_rot;
    rope_mscale = p.mscale;
    rope_eps = p.eps;
    normed_q = p.has_qnorm != 0u;
    normed_k = p.has_knorm != 0u;
    rope_store_head(gl_WorkGroupID.x, gl_WorkGroupID.y);
}
