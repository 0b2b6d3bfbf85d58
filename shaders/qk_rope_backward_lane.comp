// qk_rope_backward.comp with a head for each invocation (include/qk_rope_lanes.glsl).
#version 450
#include "qk_rope_backward.contract.glsl"
#include "include/qk_rope_lanes.glsl"

// The gradient of pairs i ... i + 3 in front of the rotation.
void load_turned(uint from, uint i, out vec4 a, out vec4 b) {
    uvec2 at = quads(i);
    split(i, FETCH(dqk_texels, from + at.x), FETCH(dqk_texels, from + at.y), a, b);
    turn(i, true, a, b);
}

void main() {
    PLACE(there)
    uint rows = p.R;
    row = gl_WorkGroupID.y;
    do {
        uint to = row * in_stride + head * (head_dim / 4u), from = row * out_stride + head * (head_dim / 4u), i = 0u;
        position = pos[row];
        float scale = 1.0, pull = 0.0;
        if (NORM != 0u) {
            scale = inverse_rms(to);
            float sum = 0.0;
            do {
                uvec2 at = quads(i);
                vec4 a, b, xa, xb, wa, wb;
                load_turned(from, i, a, b);
                split(i, FETCH(qkv_texels, to + at.x), FETCH(qkv_texels, to + at.y), xa, xb);
                load_weights(i, wa, wb);
                sum += dot(xa * wa, a) + dot(xb * wb, b);
                i += 4u;
            } while (i < pairs);
            pull = sum * scale * scale / float(head_dim);
            i = 0u;
        }
        do {
            uvec2 at = quads(i);
            vec4 a, b, u, v;
            load_turned(from, i, a, b);
            if (NORM != 0u) {
                vec4 xa, xb, wa, wb;
                split(i, FETCH(qkv_texels, to + at.x), FETCH(qkv_texels, to + at.y), xa, xb);
                load_weights(i, wa, wb);
                a = normed ? scale * (a * wa - xa * pull) : a;
                b = normed ? scale * (b * wb - xb * pull) : b;
            }
            join(i, a, b, u, v);
            if (there) {
                dqkv4[to + at.x] = u;
                dqkv4[to + at.y] = v;
            }
            i += 4u;
        } while (i < pairs);
        row += gl_NumWorkGroups.y;
    } while (row < rows);
}
