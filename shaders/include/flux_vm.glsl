// The FLUX machine: runs one program for one candidate in each invocation, every lane at a pc of its own.
//
// Before it: `uvec4 flux_code(uint i)`, texel i of the lowered programs; exp_bits.glsl and philox.glsl. What the words of a
// program mean stands in flux_vk/flux/micro.py.
//
// A CPU driver runs both sides of every branch under masks; the back edge of a loop is the only branch it has. So loops
// are nested by how rare an operation is. The innermost one has no branch at all: one entry computes every result that
// there is and picks one, so lanes at different places cost nothing. Lanes leave it for what is rarer. An array is read
// and written lane by lane there, whatever its index, so it is touched as seldom as can be.

#include "flux_words.glsl"

const uint FLUX_HALF = FLUX_WINDOW / 4u;    // words of a window

uint flux_r[FLUX_FILE];                     // R0-15, F0-15 as bits, zero, a sink, temporaries
uint flux_m[2u * FLUX_HALF + 1u];           // the windows; a word reads as 0 until its bit in flux_written is set
uvec4 flux_written;

// Where a candidate stands. Flags: Z is order == 0, S and C are order < 0, O is never set.
struct FluxState {
    uint pc;        // slot of an entry
    uint steps;
    uint trap;
    int order;
};

bool flux_has(uint w, uint bit) { return (w & bit) != 0u; }
uint flux_pick(bool c, uint yes, uint no) { return c ? yes : no; }

// In functions, so that glslang does not follow "precise" through the whole machine (it does not come to an end there).
float flux_sum(float a, float b) { precise float r = a + b; return r; }
float flux_product(float a, float b) { precise float r = a * b; return r; }
float flux_quotient(float a, float b) { precise float r = a / b; return r; }

// The entry at `w`, and those behind it, until one is rare, would trap, or no step is left.
void flux_plain(inout FluxState s, inout uvec4 w, uint code, uint max_steps) {
    if (int(w.x) < 0 || s.steps >= max_steps) return;
    do {
        uint a = flux_r[w.x & 63u], b = flux_r[(w.x >> FLUX_B) & 63u] + w.y;
        a = flux_has(w.x, FLUX_A_IS_FLAGS) ? uint(s.order) : a;
        float fa = uintBitsToFloat(a), fb = uintBitsToFloat(b);
        uint kind = w.x >> FLUX_KIND;
        bool k0 = flux_has(kind, 1u), k1 = flux_has(kind, 2u), k2 = flux_has(kind, 4u), k3 = flux_has(kind, 8u);
        if (k0 && k1 && k2 && k3 && b << 1 == 0u) break;     // a division by zero: flux_arithmetic traps

        uint sign = (w.x << (31u - FLUX_UNSIGNED)) & 0x80000000u;
        bool real = flux_has(w.x, FLUX_IS_FLOAT);
        bool less = real ? fa < fb : int(a ^ sign) < int(b ^ sign);
        bool same = real ? fa == fb : a == b;
        uint order = less ? 0xFFFFFFFFu : same ? 0u : 1u;
        bool holds = ((w.x >> (order + (FLUX_TRUTH + 1u))) & 1u) != 0u;

        uint n = b & 31u, back = (0u - b) & 31u;
        bool far = (b & 32u) != 0u;
        uint left = a << n;
        bool arithmetic = k2 && k3;     // small integers are denormal floats, which cost a CPU a hundred cycles each
        float xa = arithmetic ? fa : 1.0, xb = arithmetic ? fb : 1.0;
        uint r01 = flux_pick(k0, a - b, a + b), r23 = flux_pick(k0, a | b, a & b);
        uint r45 = flux_pick(k0, far ? 0u : left, a ^ b);
        uint r67 = flux_pick(k0, left | (a >> back), uint(int(a) >> (far ? 31u : n)));
        uint r89 = flux_pick(k0, a * b, (a >> n) | (a << back));
        uint rab = flux_pick(k0, order, holds ? 1u : 0u);
        uint rcd = flux_pick(k0, floatBitsToUint(flux_sum(xa, xb)), holds ? a : b);
        uint ref = flux_pick(k0, floatBitsToUint(flux_quotient(xa, xb)), floatBitsToUint(flux_product(xa, xb)));
        uint r = flux_pick(k3, flux_pick(k2, flux_pick(k1, ref, rcd), flux_pick(k1, rab, r89)),
                           flux_pick(k2, flux_pick(k1, r67, r45), flux_pick(k1, r23, r01)));

        flux_r[(w.x >> FLUX_D) & 63u] = r;
        s.order = flux_has(w.x, FLUX_SETS_FLAGS) ? int(r) : s.order;
        s.steps += (w.x >> FLUX_COUNTS_BIT) & 1u;
        s.pc = holds ? w.w : w.z;
        w = flux_code(code + s.pc);
    } while (int(w.x) >= 0 && s.steps < max_steps);
}

// a / b and a mod b of unsigned numbers up to 2^31, b > 0, without a hardware division (drivers that have none take
// one lane after another): two estimates from below in floats, the second of what the first left, then at most two
// corrections. The first is short by less than a / b * 2^-19 + 1, the second by less than 2.
uvec2 flux_divide(uint a, uint b) {
    float by = (1.0 - 1.0 / 1048576.0) / float(b);
    uint q = uint(float(a) * by), left = a - q * b;
    uint more = uint(float(left) * by);
    q += more;
    left -= more * b;
    for (uint i = 0u; i < 2u; i++) {
        bool under = left >= b;
        q += under ? 1u : 0u;
        left -= under ? b : 0u;
    }
    return uvec2(q, left);
}

// Truncated and saturated; NaN gives 0.
int flux_truncate(float x) {
    return isnan(x) ? 0 : x >= 2147483648.0 ? 0x7FFFFFFF : x < -2147483648.0 ? int(0x80000000) : int(x);
}

// Q16.16: rounded half to even and saturated; NaN gives 0.
int flux_q16(float x) { return flux_truncate(roundEven(x * 65536.0)); }

uint flux_load(uint i) {
    uint group = i >> 5;
    uint bits = group == 0u ? flux_written.x : group == 1u ? flux_written.y : group == 2u ? flux_written.z : flux_written.w;
    return (bits & (1u << (i & 31u))) != 0u ? flux_m[i] : 0u;
}

void flux_store(uint i, uint value) {
    flux_m[i] = value;
    uint bit = 1u << (i & 31u);
    flux_written |= mix(uvec4(0u), uvec4(bit), equal(uvec4(i >> 5), uvec4(0u, 1u, 2u, 3u)));
}

bool flux_outside(uint address, uint size) {
    return address > FLUX_WINDOW - size && address - (FLUX_STACK - FLUX_WINDOW) > FLUX_WINDOW - size;
}

uint flux_memory_trap(uvec4 w, int start, uint address, int moved, uint size) {
    bool outside = flux_outside(address, size);
    if (flux_has(w.x, FLUX_M_PUSH)) {
        return start > int(FLUX_STACK) ? FLUX_TRAP_BAD_ADDRESS : start < 4 || moved < 0 || outside ? FLUX_TRAP_STACK_OVERFLOW : 0u;
    }
    int offset = (int(w.w) << 16) >> 16;
    bool under = flux_has(w.x, FLUX_M_POP) && start > int(FLUX_STACK) - 4 - offset;
    return under ? FLUX_TRAP_STACK_UNDERFLOW : outside ? FLUX_TRAP_BAD_ADDRESS : 0u;
}

// What one rare entry does: the result for R[d], a trap, what becomes of memory and of SP.
struct FluxRare {
    uint result;
    uint trap;
    bool writes;        // R[d] = result
    bool stores;        // two words from `word` on, the second only where `high_mask` has bits
    uint word;
    uint low, high;
    uint high_mask;
    bool moves;         // SP = moved
    uint moved;
};

// Integer division, CAST, CHECK_BOUNDS, and FDIV by zero. Any other plain entry comes here only where a driver ends loops
// by itself (llvmpipe does after 65535 turns of all loops of an invocation together).
FluxRare flux_arithmetic(uvec4 w, uint a, uint b) {
    uint op = (w.x >> FLUX_KIND) & 15u;
    bool rare = int(w.x) < 0, divides = rare ? op == FLUX_X_DIV || op == FLUX_X_REM : op == FLUX_K_FDIV;
    FluxRare f;
    f.trap = divides && (rare ? b : b << 1) == 0u ? FLUX_TRAP_DIVIDE_BY_ZERO : !rare ? FLUX_TRAP_STEP_LIMIT : 0u;
    if (rare && op == FLUX_X_BOUNDS && !(int(a) >= 0 && int(a) < int(b))) f.trap = FLUX_TRAP_OTHER;
    uvec2 whole = flux_divide(uint(abs(int(a))), max(uint(abs(int(b))), 1u));
    uint q = int(a ^ b) < 0 ? 0u - whole.x : whole.x, rest = int(a) < 0 ? 0u - whole.y : whole.y;
    f.result = op == FLUX_X_DIV ? q : op == FLUX_X_REM ? rest : uint(flux_truncate(flux_product(uintBitsToFloat(a), 1000.0)));
    f.writes = true;
    f.stores = f.moves = false;
    f.word = f.low = f.high = f.high_mask = f.moved = 0u;
    return f;
}

// Load or store of a word or a byte at R[a] + offset, at any alignment; SP moves where the entry says so.
FluxRare flux_memory(uvec4 w, uint a, uint b) {
    int start = int(a), moved = start + (int(w.w) >> 16);
    uint address = uint(start + ((int(w.w) << 16) >> 16));
    bool byte = flux_has(w.x, FLUX_M_BYTE);
    FluxRare f;
    f.stores = flux_has(w.x, FLUX_M_STORE);
    f.writes = !f.stores;
    f.moves = flux_has(w.x, FLUX_M_MOVE_SP);
    f.moved = uint(moved);
    f.trap = flux_memory_trap(w, start, address, moved, byte ? 1u : 4u);
    uint at = address < FLUX_WINDOW ? address : address - (FLUX_STACK - 2u * FLUX_WINDOW);
    at = f.trap == 0u ? at : 0u;
    f.word = at >> 2;
    uint shift = 8u * (at & 3u), back = 32u - shift, mask = byte ? 0xFFu : 0xFFFFFFFFu, given = b & mask;
    bool split = shift != 0u;
    uint low = flux_load(f.word), high = split ? flux_load(f.word + 1u) : 0u;   // the last word is never split
    f.result = ((low >> shift) | (split ? high << back : 0u)) & mask;
    f.low = (low & ~(mask << shift)) | (given << shift);
    f.high_mask = split ? mask >> back : 0u;
    f.high = (high & ~f.high_mask) | (split ? given >> back : 0u);
    return f;
}

FluxRare flux_alloca(uint sp, uint n) {
    FluxRare f;
    f.trap = int(n) < 0 || int(sp) < 0 || int(n) > (int(sp) >> 2) ? FLUX_TRAP_STACK_OVERFLOW : 0u;
    f.result = f.moved = sp - 4u * n;
    f.writes = f.moves = true;
    f.stores = false;
    f.word = f.low = f.high = f.high_mask = 0u;
    return f;
}

// The rare entry at `w`. A trap changes nothing but s.trap.
void flux_rare(inout FluxState s, inout uvec4 w, uint code, uint bytes, uvec4 draw, uvec2 seed) {
    uint op = (w.x >> FLUX_KIND) & 15u, d = (w.x >> FLUX_D) & 63u;
    uint a = flux_r[w.x & 63u], b = flux_r[(w.x >> FLUX_B) & 63u] + w.y;
    bool rare = int(w.x) < 0, memory = rare && op == FLUX_X_MEMORY, alloc = rare && op == FLUX_X_ALLOCA;
    FluxRare f = flux_arithmetic(w, a, b), m = flux_memory(w, a, b), l = flux_alloca(a, b);
    if (memory) f = m;
    if (alloc) f = l;
    if (rare && op == FLUX_X_RANDOM) f.result = philox4x32_10(draw, seed).x;

    bool dynamic = memory && flux_has(w.x, FLUX_M_DYNAMIC);
    uint target = f.stores ? flux_r[d] : f.result, inside = min(target, bytes);
    uint next = dynamic ? FLUX_BASE + inside : w.z != 0u ? w.z : flux_r[FLUX_R_LINK];
    uvec4 ahead = flux_code(code + next);
    bool lost = dynamic && (inside != target || !flux_has(ahead.x, FLUX_IS_BOUNDARY));
    s.trap = f.trap != 0u ? f.trap : lost ? FLUX_TRAP_BAD_ADDRESS : 0u;
    if (s.trap != 0u) return;
    if (f.stores) {
        flux_store(f.word, f.low);
        if (f.high_mask != 0u) flux_store(f.word + 1u, f.high);
    }
    if (f.moves) flux_r[FLUX_R_SP] = f.moved;
    if (f.writes) flux_r[d] = f.result;
    s.order = !memory && flux_has(w.x, FLUX_SETS_FLAGS) ? int(f.result) : s.order;
    s.steps += (w.x >> FLUX_COUNTS_BIT) & 1u;
    s.pc = next;
    w = ahead;
}

bool flux_halts(uvec4 w) { return int(w.x) < 0 && ((w.x >> FLUX_KIND) & 15u) <= FLUX_X_END; }

// Whether flux_plain left the candidate at an entry for flux_rare; else it has stopped. RANDOM is no step.
bool flux_waits(FluxState s, uvec4 w, uint max_steps) {
    return s.pc == FLUX_RANDOM || (s.trap == 0u && s.steps < max_steps && !flux_halts(w));
}

// What is left to say of a candidate that has stopped; s.pc becomes an offset.
void flux_settle(inout FluxState s, uvec4 w, uint max_steps) {
    bool halt = flux_halts(w), end = ((w.x >> FLUX_KIND) & 15u) == FLUX_X_END;
    bool step = s.trap == 0u && halt && !end && s.steps < max_steps;
    if (s.trap == 0u && !step && !(halt && end)) s.trap = FLUX_TRAP_STEP_LIMIT;
    s.steps += step ? 1u : 0u;
    uint link = flux_r[FLUX_R_LINK];    // of a shared sequence: the slot behind its instruction
    s.pc = (s.pc >= FLUX_BASE ? (step ? w.z : s.pc) : link - (step ? 0u : 1u)) - FLUX_BASE;
}

// Runs from s.pc until the program stops, from the registers in flux_r. `code`: texel of its first word; `bytes`: of its
// code; `draw`, `seed`: what RANDOM is made from.
void flux_run(inout FluxState s, uint code, uint bytes, uint max_steps, uvec4 draw, uvec2 seed) {
    uvec4 w = flux_code(code + s.pc);
    bool waits = true;
    do {
        flux_plain(s, w, code, max_steps);
        waits = flux_waits(s, w, max_steps);
        if (waits) flux_rare(s, w, code, bytes, draw, seed);
    } while (waits && s.trap == 0u);
    flux_settle(s, w, max_steps);
}
