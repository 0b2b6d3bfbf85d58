#version 450
#include "fma_peak.contract.glsl"

// The device's peak of multiply-adds. Every chain waits for itself only; nothing but x and y touches memory.
// Straight-line runs of 16 steps keep the loop's own cost small.
#define STEP [[unroll]] for (uint j = 0u; j < ACC; j++) a[j] = fma(a[j], m, c);
#define STEP4 STEP STEP STEP STEP

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x;
    uint n = p.N, rounds = p.rounds;
    float m = p.m, c = p.c;
    float start = x[min(i, n - 1u)];
    float a[ACC];
    [[unroll]] for (uint j = 0u; j < ACC; j++) a[j] = start + float(j);
    for (uint r = 0u; r < rounds; r++) {
        STEP4 STEP4 STEP4 STEP4
    }
    float sum = 0.0;
    [[unroll]] for (uint j = 0u; j < ACC; j++) sum += a[j];
    if (i < n) y[i] = sum;
}
