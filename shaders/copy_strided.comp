#version 450
#include "copy_strided.contract.glsl"

// A rows x cols block of 4-byte elements between two layouts, as bits, four elements an invocation.
void main() {
    uint i = gl_GlobalInvocationID.x;
    bool aligned = ((p.cols | p.x_stride | p.x_offset | p.y_stride | p.y_offset) & 3u) == 0u;
    for (uint row = gl_WorkGroupID.y; row < p.rows; row += gl_NumWorkGroups.y) {
        uint from = row * p.x_stride + p.x_offset, to = row * p.y_stride + p.y_offset;
        if (aligned) {
            if (i < p.cols / 4u) y4[to / 4u + i] = x4[from / 4u + i];
        } else {
            for (uint j = 4u * i; j < min(4u * i + 4u, p.cols); j++) y[to + j] = x[from + j];
        }
    }
}
