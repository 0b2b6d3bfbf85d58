// qk_rope.comp with a head for each invocation (include/qk_rope_lanes.glsl).
#version 450
#include "qk_rope.contract.glsl"
#include "include/qk_rope_lanes.glsl"

void main() {
    PLACE(there)
    uint rows = p.R;
    row = gl_WorkGroupID.y;
    do {
        uint from = row * in_stride + head * (head_dim / 4u), to = row * out_stride + head * (head_dim / 4u), i = 0u;
        position = pos[row];
        float scale = 1.0;
        if (NORM != 0u) scale = inverse_rms(from);
        do {
            uvec2 at = quads(i);
            vec4 a, b, u, v;
            split(i, FETCH(qkv_texels, from + at.x), FETCH(qkv_texels, from + at.y), a, b);
            if (NORM != 0u) {
                vec4 wa, wb;
                load_weights(i, wa, wb);
                a *= normed ? scale * wa : vec4(1.0);
                b *= normed ? scale * wb : vec4(1.0);
            }
            turn(i, false, a, b);
            join(i, a, b, u, v);
            if (there) {
                qk4[to + at.x] = u;
                qk4[to + at.y] = v;
            }
            i += 4u;
        } while (i < pairs);
        row += gl_NumWorkGroups.y;
    } while (row < rows);
}
