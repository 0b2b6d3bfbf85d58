// The heads of q and k of training rows, a head for each invocation, for CPU drivers: sums need no other lane, and what is
// read is read as texels. For sizes that are multiples of 8 (WIDE); otherwise as qk_rope_body.glsl says.
//
// Wants the texel buffers qkv_texels, turns_texels, qnorm_texels, knorm_texels and the constants NEOX, NORM.
#include "sincos.glsl"

#define FETCH(texels, at) uintBitsToFloat(texelFetch(texels, int(at)))

uint row, head, all_heads, head_dim, pairs, half_rot, in_stride, out_stride, position;
bool is_q, normed;
float rope_mscale, norm_eps;

// False in an invocation that has no head. Push constants are read here, in front of all control flow.
#define PLACE(there)                                                               \
    all_heads = p.heads + p.kv_heads;                                              \
    head_dim = p.head_dim;                                                         \
    pairs = head_dim / 2u;                                                         \
    half_rot = p.n_rot / 2u;                                                       \
    in_stride = (all_heads + p.kv_heads) * head_dim / 4u;                          \
    out_stride = all_heads * head_dim / 4u;                                        \
    rope_mscale = p.mscale;                                                        \
    norm_eps = p.eps;                                                              \
    head = gl_WorkGroupID.x * WG + gl_LocalInvocationID.x;                         \
    bool there = head < all_heads;                                                 \
    head = min(head, all_heads - 1u);                                              \
    is_q = head < p.heads;                                                         \
    normed = NORM != 0u && (is_q ? p.has_qnorm != 0u : p.has_knorm != 0u);

// The two vec4 that hold pairs i ... i + 3, and their elements as first and second of each pair, there and back.
bool neighbours(uint i) { return NEOX == 0u || i >= half_rot; }
uvec2 quads(uint i) { return neighbours(i) ? uvec2(i / 2u, i / 2u + 1u) : uvec2(i / 4u, (i + half_rot) / 4u); }

void split(uint i, vec4 u, vec4 v, out vec4 a, out vec4 b) {
    a = neighbours(i) ? vec4(u.xz, v.xz) : u;
    b = neighbours(i) ? vec4(u.yw, v.yw) : v;
}

void join(uint i, vec4 a, vec4 b, out vec4 u, out vec4 v) {
    u = neighbours(i) ? vec4(a.x, b.x, a.y, b.y) : a;
    v = neighbours(i) ? vec4(a.z, b.z, a.w, b.w) : b;
}

// The norm's weights for pairs i ... i + 3 of this head.
void load_weights(uint i, out vec4 a, out vec4 b) {
    uvec2 at = quads(i);
    vec4 u = is_q ? FETCH(qnorm_texels, at.x) : FETCH(knorm_texels, at.x);
    vec4 v = is_q ? FETCH(qnorm_texels, at.y) : FETCH(knorm_texels, at.y);
    split(i, u, v, a, b);
}

void turn(uint i, bool back, inout vec4 a, inout vec4 b) {
    vec4 sine, cosine;
    sincos_turns(texelFetch(turns_texels, int(min(i, half_rot - 4u) / 4u)) * position, sine, cosine);
    sine *= back ? -rope_mscale : rope_mscale;
    cosine *= rope_mscale;
    precise vec4 c = a * cosine - b * sine, d = a * sine + b * cosine;
    a = i < half_rot ? c : a;
    b = i < half_rot ? d : b;
}

float inverse_rms(uint from) {
    vec4 squares = vec4(0.0);
    uint i = 0u;
    do {
        vec4 v = FETCH(qkv_texels, from + i);
        squares = fma(v, v, squares);
    } while (++i < head_dim / 4u);
    return 1.0 / sqrt(((squares.x + squares.y) + (squares.z + squares.w)) / float(head_dim) + norm_eps);
}
