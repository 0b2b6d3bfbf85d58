// Reductions over a workgroup of WG invocations (WG >= 16), with one order on every device and for every grid: 16 columns
// are summed first, then their sums. Only shared memory is used, so the subgroup size does not matter.
// Every invocation of the workgroup must call these functions. The next call may follow at once: a second barrier lies
// between the last reads and the next writes of each array.

const uint WG_COLUMNS = 16u;
shared uint wg_slot[WG];
shared uint wg_column[WG_COLUMNS];

uint group_index() { return gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x; }

float wg_sum(float v) {
    uint t = gl_LocalInvocationID.x;
    wg_slot[t] = floatBitsToUint(v);
    barrier();
    if (t < WG_COLUMNS) {
        float column = 0.0;
        for (uint i = t; i < WG; i += WG_COLUMNS) column += uintBitsToFloat(wg_slot[i]);
        wg_column[t] = floatBitsToUint(column);
    }
    barrier();
    float sum = 0.0;
    for (uint i = 0u; i < WG_COLUMNS; i++) sum += uintBitsToFloat(wg_column[i]);
    return sum;
}

uint wg_max(uint v) {
    uint t = gl_LocalInvocationID.x;
    wg_slot[t] = v;
    barrier();
    if (t < WG_COLUMNS) {
        uint column = 0u;
        for (uint i = t; i < WG; i += WG_COLUMNS) column = max(column, wg_slot[i]);
        wg_column[t] = column;
    }
    barrier();
    uint best = 0u;
    for (uint i = 0u; i < WG_COLUMNS; i++) best = max(best, wg_column[i]);
    return best;
}

uint wg_min(uint v) { return ~wg_max(~v); }
