#version 450
#include "cast.contract.glsl"
#include "include/float_bits.glsl"

// FROM and TO name the element types; all conversions work on bits (see float_bits.glsl).
#define F32 0
#define F16 1
#define BF16 2
#define U32 3

uint convert(uint v) {
#if FROM == U32
    return TO == U32 ? v : TO == BF16 ? u32_to_float(v, 8u) >> 16u
         : TO == F16 ? f32_to_f16(u32_to_float(v, 24u)) : u32_to_float(v, 24u);
#else
    uint f = FROM == F16 ? f16_to_f32(v) : FROM == BF16 ? v << 16u : v;
    return TO == U32 ? float_to_u32(f) : TO == F16 ? f32_to_f16(f) : TO == BF16 ? f32_to_bf16(f) : f;
#endif
}

// Four elements an invocation; the last ones of an array whose length is no multiple of four go one by one.
void main() {
    uint i = gl_WorkGroupID.y * gl_NumWorkGroups.x * WG + gl_GlobalInvocationID.x;
    if (i < p.N / 4u) {
#if FROM == F16 || FROM == BF16
        uvec2 packed = x4[i];
        uvec4 v = uvec4(packed.x & 0xffffu, packed.x >> 16u, packed.y & 0xffffu, packed.y >> 16u);
#else
        uvec4 v = x4[i];
#endif
        [[unroll]] for (int j = 0; j < 4; j++) v[j] = convert(v[j]);
#if TO == F16 || TO == BF16
        y4[i] = uvec2(v.x | v.y << 16u, v.z | v.w << 16u);
#else
        y4[i] = v;
#endif
    }
    if (i < p.N % 4u) {
        uint j = (p.N & ~3u) + i;
        y[j] = Y_T(convert(uint(x[j])));
    }
}
