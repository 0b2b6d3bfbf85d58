// Eight invocations a head of q or k of a row: the norm of the head if it has one, then the rotation.
#version 450
#include "qk_rope.contract.glsl"
#include "include/qk_rope_body.glsl"

void main() {
    LOAD_PUSH
    uint team = gl_LocalInvocationID.x / TEAM, lane = gl_LocalInvocationID.x % TEAM;
    uint wanted = gl_WorkGroupID.x * TEAMS + team, head = min(wanted, all_heads - 1u), end = p.R;
    bool is_q = head < heads, normed = is_q ? normed_q : normed_k, any_norm = normed_q || normed_k;
    for (uint row = gl_WorkGroupID.y; row < end; row += gl_NumWorkGroups.y) {
        uint from = row * in_stride + head * head_dim, to = row * out_stride + head * head_dim, position = pos[row];
        float scale = any_norm ? inverse_rms(from) : 1.0;
        if (wanted >= all_heads) continue;
        for (uint i = 4u * lane; i < pairs; i += 4u * TEAM) {
            vec4 a, b;
            LOAD_PAIRS(qkv, qkv4, from, i, a, b)
            if (normed) {
                vec4 wa, wb;
                load_weights(is_q, i, wa, wb);
                a *= scale * wa;
                b *= scale * wb;
            }
            turn(i, position, false, a, b);
            STORE_PAIRS(qk, qk4, to, i, a, b)
        }
    }
}
