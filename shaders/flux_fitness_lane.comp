#version 450
#include "flux_fitness.contract.glsl"

uvec4 flux_row(uint i) { return texelFetch(row_texels, int(i)); }
uvec4 flux_cand(uint i) { return texelFetch(cand_texels, int(i)); }
uvec4 flux_code(uint i) { return texelFetch(code_texels, int(i)); }

#include "include/flux_fitness_body.glsl"
