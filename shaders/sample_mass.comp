#version 450
#include "sample_mass.contract.glsl"
#include "include/sample_row.glsl"

// For rows without top-k, 4096 logits per workgroup. With top-p: a histogram of mass (temperature 1) over the distance
// to the largest logit in eighths, bin 255 the nearest, from which sample_pick learns how far the candidates reach.
// With no limit at all: the mass at the row's temperature of each 4096 logits, so that the draw need look at few.

shared uint s_lo[256];
shared uint s_hi[256];
shared uint s_max;

void add_shared(uint bin, uvec2 w) {
    uint before = atomicAdd(s_lo[bin], w.x);
    uint carry = before + w.x < before ? 1u : 0u;
    if (w.y + carry != 0u) atomicAdd(s_hi[bin], w.y + carry);
}

void main() {
    uint row = gl_WorkGroupID.y, tid = gl_LocalInvocationID.x;
    uint slot = row_slot[row];
    if (slot >= p.S || p.V <= CAP) return;
    uint at = slot * P_WORDS, k = params[at + P_TOP_K];
    float inv_temp = uintBitsToFloat(params[at + P_INV_TEMP]);
    bool nucleus = params[at + P_TOP_P] != P_OFF;
    bool open = !nucleus && isinf(uintBitsToFloat(params[at + P_MIN_P]));
    if (inv_temp == 0.0 || (k != 0u && k < p.V) || !(nucleus || open)) return;

    for (uint b = tid; b < 256u; b += BLOCK_LANES) {
        s_lo[b] = 0u;
        s_hi[b] = 0u;
    }
    if (tid == 0u) s_max = 0u;
    barrier();
    uvec4 best = uvec4(0u);
    for (uint i = tid; i < p.NB / 4u; i += BLOCK_LANES) best = max(best, maxima4[row * (p.NB / 4u) + i]);
    uint most = subgroupMax(max(max(best.x, best.y), max(best.z, best.w)));
    if (subgroupElect()) atomicMax(s_max, most);
    barrier();
    float top = value_of(s_max);

    uint base = gl_WorkGroupID.x * BLOCK_LANES * BLOCK_VECS + tid;
    uvec2 sum = uvec2(0u);
    for (uint j = 0u; j < BLOCK_VECS; j++) {
        uvec4 keys = load_keys(row, base + BLOCK_LANES * j);
        for (uint c = 0u; c < 4u; c++) {
            if (keys[c] <= KEY_NEG_INF) continue;
            precise float d = value_of(keys[c]) - top;
            precise float t = d * inv_temp;
            uvec2 parts = mass_parts(nucleus ? d : t);
            if (!nucleus) sum += parts;
            else if ((parts.x | parts.y) != 0u) add_shared(255u - min(uint(int(min(-d, 31.875) * 8.0)), 255u), parts64(parts));
        }
    }
    if (!nucleus) add_shared(0u, parts64(sum));
    barrier();
    if (nucleus) {
        for (uint b = tid; b < 256u; b += BLOCK_LANES) {
            if ((s_lo[b] | s_hi[b]) == 0u) continue;
            uint before = atomicAdd(mass[(row * 256u + b) * 2u], s_lo[b]);
            uint carry = before + s_lo[b] < before ? 1u : 0u;
            atomicAdd(mass[(row * 256u + b) * 2u + 1u], s_hi[b] + carry);
        }
    } else if (tid < 1u) {
        mass[(row * 256u + gl_WorkGroupID.x) * 2u] = s_lo[0];
        mass[(row * 256u + gl_WorkGroupID.x) * 2u + 1u] = s_hi[0];
    }
}
