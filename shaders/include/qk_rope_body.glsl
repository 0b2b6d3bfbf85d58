// The heads of q and k of training rows, TEAM invocations a head: which elements are a pair, their angles, norms and sums.
// An invocation takes four pairs at a time; with WIDE they are two whole vec4 of memory.
//
// Wants the arrays qkv, qkv4, pos, turns, turns4, qnorm, knorm and the constants WG, NEOX, WIDE. LOAD_PUSH comes first.
#include "sincos.glsl"

const uint TEAM = 8u;                // of one head: its sums are taken in 8 columns, then in their order
const uint TEAMS = WG / TEAM;

shared float team_slot[WG];

uint heads, all_heads, head_dim, pairs, half_rot, in_stride, out_stride;
float rope_mscale, norm_eps;
bool normed_q, normed_k;

// Push constants, once and in front of all control flow: inside it llvmpipe gathers them lane by lane.
#define LOAD_PUSH                                        \
    heads = p.heads;                                     \
    all_heads = p.heads + p.kv_heads;                    \
    head_dim = p.head_dim;                               \
    pairs = head_dim / 2u;                               \
    half_rot = p.n_rot / 2u;                             \
    in_stride = (all_heads + p.kv_heads) * head_dim;     \
    out_stride = all_heads * head_dim;                   \
    rope_mscale = p.mscale;                              \
    norm_eps = p.eps;                                    \
    normed_q = p.has_qnorm != 0u;                        \
    normed_k = p.has_knorm != 0u;

// Neighbours are a pair, as in front of n_rot without NEOX, and behind it always (there nothing is rotated).
bool neighbours(uint i) { return NEOX == 0u || i >= half_rot; }

// Elements of pair i.
uvec2 pair(uint i) { return neighbours(i) ? uvec2(2u * i, 2u * i + 1u) : uvec2(i, i + half_rot); }

// The two vec4 that hold pairs i ... i + 3.
uvec2 quads(uint i) { return neighbours(i) ? uvec2(i / 2u, i / 2u + 1u) : uvec2(i / 4u, (i + half_rot) / 4u); }

// Pairs i ... i + 3 of the head at element `from` of an array, of which vec4s is the view by four; zeros past the head.
#define LOAD_PAIRS(floats, vec4s, from, i, a, b)                                                 \
    if (WIDE != 0u) {                                                                            \
        uvec2 at = (from) / 4u + quads(i);                                                       \
        vec4 u = vec4s[at.x], v = vec4s[at.y];                                                   \
        a = neighbours(i) ? vec4(u.xz, v.xz) : u;                                                \
        b = neighbours(i) ? vec4(u.yw, v.yw) : v;                                                \
    } else {                                                                                     \
        [[unroll]] for (uint c = 0u; c < 4u; c++) {                                              \
            uvec2 at = (from) + pair(min(i + c, pairs - 1u));                                    \
            a[c] = i + c < pairs ? floats[at.x] : 0.0;                                           \
            b[c] = i + c < pairs ? floats[at.y] : 0.0;                                           \
        }                                                                                        \
    }

#define STORE_PAIRS(floats, vec4s, from, i, a, b)                                                \
    if (WIDE != 0u) {                                                                            \
        uvec2 at = (from) / 4u + quads(i);                                                       \
        vec4s[at.x] = neighbours(i) ? vec4(a.x, b.x, a.y, b.y) : a;                              \
        vec4s[at.y] = neighbours(i) ? vec4(a.z, b.z, a.w, b.w) : b;                              \
    } else {                                                                                     \
        [[unroll]] for (uint c = 0u; c < 4u; c++) {                                              \
            if (i + c >= pairs) continue;                                                        \
            uvec2 at = (from) + pair(i + c);                                                     \
            floats[at.x] = a[c];                                                                 \
            floats[at.y] = b[c];                                                                 \
        }                                                                                        \
    }

// Weights of the norm of a head of q or k.
void load_weights(bool is_q, uint i, out vec4 a, out vec4 b) {
    if (is_q) {
        LOAD_PAIRS(qnorm, qnorm4, 0u, i, a, b)
    } else {
        LOAD_PAIRS(knorm, knorm4, 0u, i, a, b)
    }
}

// Turns pairs i ... i + 3 by their angles at a position (back: the other way round), times mscale.
void turn(uint i, uint position, bool back, inout vec4 a, inout vec4 b) {
    uvec4 rate;
    if (WIDE != 0u) {
        rate = turns4[min(i, half_rot - 4u) / 4u];
    } else {
        [[unroll]] for (uint c = 0u; c < 4u; c++) rate[c] = turns[min(i + c, half_rot - 1u)];
    }
    vec4 sine, cosine;
    sincos_turns(rate * position, sine, cosine);
    sine *= back ? -rope_mscale : rope_mscale;
    cosine *= rope_mscale;
    precise vec4 c = a * cosine - b * sine, d = a * sine + b * cosine;
    bvec4 rotated = lessThan(uvec4(i, i + 1u, i + 2u, i + 3u), uvec4(half_rot));
    a = mix(a, c, rotated);
    b = mix(b, d, rotated);
}

// Sum over the invocations of a team. Every invocation of the workgroup must call it.
float team_sum(float mine) {
    uint t = gl_LocalInvocationID.x;
    barrier();                       // the sum before may still be being read
    team_slot[t] = mine;
    barrier();
    float sum = 0.0;
    for (uint i = 0u; i < TEAM; i++) sum += team_slot[t / TEAM * TEAM + i];
    return sum;
}

// 1 / the root mean square of the head at element `from`.
float inverse_rms(uint from) {
    precise float sum = 0.0;
    for (uint i = 4u * (gl_LocalInvocationID.x % TEAM); i < pairs; i += 4u * TEAM) {
        vec4 a, b;
        LOAD_PAIRS(qkv, qkv4, from, i, a, b)
        sum += dot(a, a) + dot(b, b);
    }
    return 1.0 / sqrt(team_sum(sum) / float(head_dim) + norm_eps);
}
