// One workgroup for one head of one row: the heads of q, then k, then v. q is rotated in place; k and v go to the cache.
// A row whose slot is not in the table is padding: nothing is done. A row beyond its slot's pages stores nothing.
#version 450
#include "rope_store.contract.glsl"
#include "include/sincos.glsl"
#include "include/reduce.glsl"

const uint MAX_HEAD_DIM = 256u;
const float F16_MAX = 65504.0;

shared float staged[MAX_HEAD_DIM];  // the rotated key: pairs of f16 are written as words, whatever the rope layout

// Push constants, read once in front of all control flow: inside it llvmpipe gathers them lane by lane.
uint heads, kv_heads, head_dim, n_rot, max_pages;

// Elements of pair i. Pairs from half on are not rotated.
uvec2 pair(uint i, uint half_rot) {
    if (NEOX == 0u || i >= half_rot) return uvec2(2u * i, 2u * i + 1u);
    return uvec2(i, i + half_rot);
}

// First element of this head in the cache page of the row; false: the slot's table has no such page.
bool cache_place(uint slot_id, uint position, uint kv_head, out uint place) {
    uvec4 info = slot_info4[slot_id];
    uint logical = position / PS;
    uint entry = logical - (logical >= info.x ? info.y : 0u);
    place = 0u;
    if (entry >= max_pages) return false;
    place = ((pages[slot_id * max_pages + entry] * kv_heads + kv_head) * PS + position % PS) * head_dim;
    return true;
}

uint half_pair(float a, float b) { return packHalf2x16(clamp(vec2(a, b), vec2(-F16_MAX), vec2(F16_MAX))); }

void store_value(uint from, uint place) {
    for (uint i = gl_LocalInvocationID.x; i < head_dim / 2u; i += WG) {
        float a = qkv[from + 2u * i], b = qkv[from + 2u * i + 1u];
#ifdef KV_F16
        vcache_2xf16[place / 2u + i] = half_pair(a, b);
#else
        vcache_f32[place + 2u * i] = a;
        vcache_f32[place + 2u * i + 1u] = b;
#endif
    }
}

void store_key(uint place) {
    for (uint i = gl_LocalInvocationID.x; i < head_dim / 2u; i += WG) {
#ifdef KV_F16
        kcache_2xf16[place / 2u + i] = half_pair(staged[2u * i], staged[2u * i + 1u]);
#else
        kcache_f32[place + 2u * i] = staged[2u * i];
        kcache_f32[place + 2u * i + 1u] = staged[2u * i + 1u];
#endif
    }
}

void main() {
    heads = p.heads;
    kv_heads = p.kv_heads;
    head_dim = p.head_dim;
    n_rot = p.n_rot;
    max_pages = p.max_pages;
    float mscale = p.mscale, eps = p.eps;
    uint row = gl_WorkGroupID.x, head = gl_WorkGroupID.y, t = gl_LocalInvocationID.x;
    uint slot_id = slot[row], position = pos[row], from = row * p.row_stride + head * head_dim;
    bool is_q = head < heads;
    bool normed = (is_q ? p.has_qnorm : p.has_knorm) != 0u;
    if (slot_id >= p.slots) return;
    uint place;
    if (head >= heads + kv_heads) {
        if (cache_place(slot_id, position, head - heads - kv_heads, place)) store_value(from, place);
        return;
    }

    float scale = 1.0;
    if (normed) {
        float squares = 0.0;
        for (uint i = t; i < head_dim; i += WG) {
            float v = qkv[from + i];
            squares = fma(v, v, squares);
        }
        scale = inversesqrt(wg_sum(squares) / float(head_dim) + eps);
    }

    uint half_rot = n_rot / 2u;
    for (uint i = t; i < head_dim / 2u; i += WG) {
        uvec2 at = pair(i, half_rot);
        precise float a = qkv[from + at.x], b = qkv[from + at.y];
        if (normed) {
            a *= scale * (is_q ? qnorm[at.x] : knorm[at.x]);
            b *= scale * (is_q ? qnorm[at.y] : knorm[at.y]);
        }
        if (i < half_rot) {
            float sine, cosine;
            sincos_turns(position * turns[i], sine, cosine);
            sine *= mscale;
            cosine *= mscale;
            precise float turned = a * cosine - b * sine;
            b = a * sine + b * cosine;
            a = turned;
        }
        if (is_q) {
            qkv[from + at.x] = a;
            qkv[from + at.y] = b;
        } else {
            staged[at.x] = a;
            staged[at.y] = b;
        }
    }
    if (is_q) return;
    barrier();
    if (cache_place(slot_id, position, head - heads, place)) store_key(place);
}
