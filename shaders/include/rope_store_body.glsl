// One head of one row of q, k or v, by a workgroup of WG invocations (8 to 64): see rope_store.comp. The caller copies its
// push constants into the globals here and in step_push.glsl and calls rope_store_head() from uniform control flow, for
// several heads one after another if it likes. What it writes (qkv, the caches) others see only behind a barrier.
//
// Wants the arrays qkv, pos, slot, pages, slot_info4, turns, qnorm, knorm, kcache_2xf16 / kcache_f32 (and so for v), the
// constants WG, PS, NEOX, and the define KV_F16 (or not). The bits do not depend on WG.
#include "step_push.glsl"
#include "sincos.glsl"

#ifndef GROUP_BARRIER               // a workgroup of one subgroup may have a cheaper one
#define GROUP_BARRIER barrier
#endif

uint head_dim, n_rot;
float rope_mscale, rope_eps;
bool normed_q, normed_k;

const uint MAX_HEAD_DIM = 256u;
const float F16_MAX = 65504.0;
const uint SUM_COLUMNS = 16u;

shared float turned_key[MAX_HEAD_DIM];  // the rotated key: pairs of f16 are written as words, whatever the rope layout
shared float head_columns[SUM_COLUMNS];

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
        kcache_2xf16[place / 2u + i] = half_pair(turned_key[2u * i], turned_key[2u * i + 1u]);
#else
        kcache_f32[place + 2u * i] = turned_key[2u * i];
        kcache_f32[place + 2u * i + 1u] = turned_key[2u * i + 1u];
#endif
    }
}

// Sum of the head's squares: 16 columns first, then these, whatever the workgroup's size.
float head_squares(uint from) {
    for (uint c = gl_LocalInvocationID.x; c < SUM_COLUMNS; c += WG) {
        float column = 0.0;
        for (uint i = c; i < head_dim; i += SUM_COLUMNS) {
            float v = qkv[from + i];
            column = fma(v, v, column);
        }
        head_columns[c] = column;
    }
    GROUP_BARRIER();
    float sum = 0.0;
    for (uint c = 0u; c < SUM_COLUMNS; c++) sum += head_columns[c];
    return sum;
}

// head: those of q, then k, then v.
void rope_store_head(uint row, uint head) {
    GROUP_BARRIER();  // the head before may still be read from `turned_key` and `head_columns`
    uint slot_id = slot[row], position = pos[row], from = row * row_stride + head * head_dim;
    if (slot_id >= slots) return;
    uint place;
    if (head >= heads + kv_heads) {
        if (cache_place(slot_id, position, head - heads - kv_heads, place)) store_value(from, place);
        return;
    }

    bool is_q = head < heads, normed = is_q ? normed_q : normed_k;
    precise float scale = 1.0;
    if (normed) scale = inversesqrt(head_squares(from) / float(head_dim) + rope_eps);

    uint half_rot = n_rot / 2u;
    for (uint i = gl_LocalInvocationID.x; i < head_dim / 2u; i += WG) {
        uvec2 at = pair(i, half_rot);
        precise float a = qkv[from + at.x], b = qkv[from + at.y];
        if (normed) {
            a *= scale * (is_q ? qnorm[at.x] : knorm[at.x]);
            b *= scale * (is_q ? qnorm[at.y] : knorm[at.y]);
        }
        if (i < half_rot) {
            float sine, cosine;
            sincos_turns(position * turns[i], sine, cosine);
            sine *= rope_mscale;
            cosine *= rope_mscale;
            precise float turned = a * cosine - b * sine;
            b = a * sine + b * cosine;
            a = turned;
        }
        if (is_q) {
            qkv[from + at.x] = a;
            qkv[from + at.y] = b;
        } else {
            turned_key[at.x] = a;
            turned_key[at.y] = b;
        }
    }
    if (is_q) return;
    GROUP_BARRIER();
    if (cache_place(slot_id, position, head - heads, place)) store_key(place);
}
