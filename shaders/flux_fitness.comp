#version 450
#include "flux_fitness.contract.glsl"

uvec4 flux_row(uint i) { return row_info4[i]; }
uvec4 flux_cand(uint i) { return cand4[i]; }
uvec4 flux_code(uint i) { return code4[i]; }

#include "include/flux_fitness_body.glsl"
