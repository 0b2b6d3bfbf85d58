// Eight invocations a head of q or k of a row. The gradient is turned back; through a norm y = x w / rms, with g the
// gradient of y times w: dx = g / rms - x (sum of x g) / (D rms^3).
#version 450
#include "qk_rope_backward.contract.glsl"
#include "include/qk_rope_body.glsl"

void main() {
    LOAD_PUSH
    uint team = gl_LocalInvocationID.x / TEAM, lane = gl_LocalInvocationID.x % TEAM;
    uint wanted = gl_WorkGroupID.x * TEAMS + team, head = min(wanted, all_heads - 1u), end = p.R;
    bool is_q = head < heads, normed = is_q ? normed_q : normed_k, any_norm = normed_q || normed_k;
    for (uint row = gl_WorkGroupID.y; row < end; row += gl_NumWorkGroups.y) {
        uint at = row * in_stride + head * head_dim, from = row * out_stride + head * head_dim, position = pos[row];
        float scale = 1.0, pull = 0.0;
        if (any_norm) {
            scale = inverse_rms(at);
            precise float sum = 0.0;
            for (uint i = 4u * lane; i < pairs; i += 4u * TEAM) {
                vec4 a, b, xa, xb, wa, wb;
                LOAD_PAIRS(dqk, dqk4, from, i, a, b)
                LOAD_PAIRS(qkv, qkv4, at, i, xa, xb)
                wa = wb = vec4(0.0);
                if (normed) load_weights(is_q, i, wa, wb);  // there are none to read else
                turn(i, position, true, a, b);
                sum += dot(xa * wa, a) + dot(xb * wb, b);
            }
            pull = team_sum(sum) * scale * scale / float(head_dim);
        }
        if (wanted >= all_heads) continue;
        for (uint i = 4u * lane; i < pairs; i += 4u * TEAM) {
            vec4 a, b;
            LOAD_PAIRS(dqk, dqk4, from, i, a, b)
            turn(i, position, true, a, b);
            if (normed) {
                vec4 xa, xb, wa, wb;
                LOAD_PAIRS(qkv, qkv4, at, i, xa, xb)
                load_weights(is_q, i, wa, wb);
                a = scale * (a * wa - xa * pull);
                b = scale * (b * wb - xb * pull);
            }
            STORE_PAIRS(dqkv, dqkv4, at, i, a, b)
        }
    }
}
