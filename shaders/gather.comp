#version 450
#include "gather.contract.glsl"

// Rows are copied as bits; an index outside x gives a row of zeros.
void main() {
    uint i = gl_GlobalInvocationID.x;
    for (uint m = gl_WorkGroupID.y; m < p.M; m += gl_NumWorkGroups.y) {
        uint row = idx[m];
        bool inside = row < p.R;
        row = inside ? row : 0u;
        if (p.D % 4u == 0u) {
            uint n = p.D / 4u;
            if (i < n) y4[m * n + i] = inside ? x4[row * n + i] : uvec4(0u);
        } else {
            for (uint j = 4u * i; j < min(4u * i + 4u, p.D); j++)
                y[m * p.D + j] = inside ? x[row * p.D + j] : 0u;
        }
    }
}
