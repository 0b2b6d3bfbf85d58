// Reading a row of logits as ordered keys, four at a time. Expects p.V and the buffers logits / logits4.

#include "sample_math.glsl"

// Keys of the four logits from 4 * i on; 0 beyond the row's end.
uvec4 load_keys(uint row, uint i) {
    if ((p.V & 3u) == 0u) {
        uint n4 = p.V >> 2;
        vec4 x = logits4[row * n4 + min(i, n4 - 1u)];
        return i < n4 ? keys_of(x) : uvec4(0u);
    }
    uvec4 at = uvec4(4u * i) + uvec4(0u, 1u, 2u, 3u);
    uvec4 from = min(at, uvec4(p.V - 1u)) + row * p.V;
    vec4 x = vec4(logits[from.x], logits[from.y], logits[from.z], logits[from.w]);
    return mix(uvec4(0u), keys_of(x), lessThan(at, uvec4(p.V)));
}
