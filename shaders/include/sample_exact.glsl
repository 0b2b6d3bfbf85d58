// After sample_collect.glsl and sample_select.glsl.

// Exactly the n best into the list, also where so many are equal that the bound let too many through.
void collect_exact(uint row, uint n) {
    cut_count(row, n);
    barrier();
    if (gl_LocalInvocationIndex == 0u) s_n = 0u;
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < (p.V + 3u) / 4u; i += WG) {
        uvec4 keys = load_keys(row, i);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] != 0u && inside(keys[c], 4u * i + c)) push_entry(keys[c], 4u * i + c);
        }
    }
    barrier();
}
