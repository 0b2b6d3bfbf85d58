// Four elements an invocation; the last one takes what is left over.
#version 450
#include "softcap.contract.glsl"
#include "include/softcap.glsl"

void main() {
    uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * WG + gl_LocalInvocationID.x;
    if (i < p.n / 4u) {
        vec4 v = x4[i];
        x4[i] = vec4(soft_cap(v.x, p.cap), soft_cap(v.y, p.cap), soft_cap(v.z, p.cap), soft_cap(v.w, p.cap));
    } else if (i == p.n / 4u) {
        for (uint j = 4u * i; j < p.n; j++) x[j] = soft_cap(x[j], p.cap);
    }
}
