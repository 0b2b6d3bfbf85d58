// The FLUX machine: runs one program for one candidate in each invocation, every lane at a pc of its own.
//
// Before it: `uvec4 flux_code(uint i)`, texel i of the lowered programs; math.glsl and philox.glsl. What the words of a
// program mean stands in flux_vk/flux/micro.py.
//
// A CPU driver runs both sides of every branch under masks; the back edge of a loop is the only branch it has. So loops
// are nested by how rare an operation is. The innermost one has no branch at all: one entry computes every result that
// there is and picks one, so lanes at different places cost nothing. Lanes leave it for what is rarer.

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
        precise float sum = xa + xb, product = xa * xb, quotient = xa / xb;
        uint r01 = flux_pick(k0, a - b, a + b), r23 = flux_pick(k0, a | b, a & b);
        uint r45 = flux_pick(k0, far ? 0u : left, a ^ b);
        uint r67 = flux_pick(k0, left | (a >> back), uint(int(a) >> (far ? 31u : n)));
        uint r89 = flux_pick(k0, a * b, (a >> n) | (a << back));
        uint rab = flux_pick(k0, order, holds ? 1u : 0u);
        uint rcd = flux_pick(k0, floatBitsToUint(sum), holds ? a : b);
        uint ref = flux_pick(k0, floatBitsToUint(quotient), floatBitsToUint(product));
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

void flux_next(inout FluxState s, inout uvec4 w, uint code) {
    s.steps += (w.x >> FLUX_COUNTS_BIT) & 1u;
    s.pc = w.z != 0u ? w.z : flux_r[FLUX_R_LINK];
    w = flux_code(code + s.pc);
}

// What needs neither memory nor a way out: integer division, CAST, CHECK_BOUNDS; and FDIV by zero. Any other plain
// entry comes here only where a driver ends loops by itself (llvmpipe does after 65535 turns of all loops together).
void flux_arithmetic(inout FluxState s, inout uvec4 w, uint code) {
    uint a = flux_r[w.x & 63u], b = flux_r[(w.x >> FLUX_B) & 63u], op = (w.x >> FLUX_KIND) & 15u;
    bool rare = int(w.x) < 0, bounds = op == FLUX_X_BOUNDS;
    bool divides = rare ? op == FLUX_X_DIV || op == FLUX_X_REM : op == FLUX_K_FDIV;
    if (divides && (rare ? b : b << 1) == 0u) {
        s.trap = FLUX_TRAP_DIVIDE_BY_ZERO;
    } else if (!rare) {
        s.trap = FLUX_TRAP_STEP_LIMIT;
    } else if (bounds && !(int(a) >= 0 && int(a) < int(b))) {
        s.trap = FLUX_TRAP_OTHER;
    } else {
        uvec2 whole = flux_divide(uint(abs(int(a))), max(uint(abs(int(b))), 1u));
        uint q = int(a ^ b) < 0 ? 0u - whole.x : whole.x, rest = int(a) < 0 ? 0u - whole.y : whole.y;
        precise float thousandths = uintBitsToFloat(a) * 1000.0;
        uint r = op == FLUX_X_DIV ? q : op == FLUX_X_REM ? rest : uint(flux_truncate(thousandths));
        flux_r[(w.x >> FLUX_D) & 63u] = r;
        s.order = flux_has(w.x, FLUX_SETS_FLAGS) ? int(r) : s.order;
        flux_next(s, w, code);
    }
}

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

// Load or store of a word or a byte, at any alignment; then SP and pc as the entry says. Nothing is written in a trap.
void flux_memory(inout FluxState s, inout uvec4 w, uint code, uint length) {
    int start = int(flux_r[w.x & 63u]), moved = start + (int(w.w) >> 16);
    uint address = uint(start + ((int(w.w) << 16) >> 16)), d = (w.x >> FLUX_D) & 63u;
    bool stores = flux_has(w.x, FLUX_M_STORE), jumps = flux_has(w.x, FLUX_M_DYNAMIC), byte = flux_has(w.x, FLUX_M_BYTE);
    s.trap = flux_memory_trap(w, start, address, moved, byte ? 1u : 4u);
    uint at = address < FLUX_WINDOW ? address : address - (FLUX_STACK - 2u * FLUX_WINDOW);
    at = s.trap == 0u ? at : 0u;
    uint i = at >> 2, shift = 8u * (at & 3u), back = 32u - shift;
    bool split = shift != 0u;
    uint low = flux_load(i), high = split ? flux_load(i + 1u) : 0u;     // the word behind the last one is never split
    uint mask = byte ? 0xFFu : 0xFFFFFFFFu;
    uint value = ((low >> shift) | (split ? high << back : 0u)) & mask;
    uint given = (flux_r[(w.x >> FLUX_B) & 63u] + w.y) & mask;
    if (jumps && s.trap == 0u) {
        uint target = stores ? flux_r[d] : value;
        uint there = target <= length ? flux_code(code + FLUX_BASE + target).x : 0u;
        s.trap = flux_has(there, FLUX_IS_BOUNDARY) ? 0u : FLUX_TRAP_BAD_ADDRESS;
        w.z = FLUX_BASE + target;
    }
    if (s.trap == 0u) {
        if (stores) {
            flux_store(i, (low & ~(mask << shift)) | (given << shift));
            uint mask_high = split ? mask >> back : 0u;
            if (mask_high != 0u) flux_store(i + 1u, (high & ~mask_high) | (given >> back));
        }
        if (flux_has(w.x, FLUX_SETS_FLAGS)) flux_r[FLUX_R_SP] = uint(moved);
        if (!stores) flux_r[d] = value;
        flux_next(s, w, code);
    }
}

void flux_alloca(inout FluxState s, inout uvec4 w, uint code) {
    int sp = int(flux_r[FLUX_R_SP]), n = int(flux_r[(w.x >> FLUX_B) & 63u]);
    if (n < 0 || sp < 0 || n > (sp >> 2)) {
        s.trap = FLUX_TRAP_STACK_OVERFLOW;
    } else {
        uint moved = uint(sp - 4 * n);
        flux_r[FLUX_R_SP] = moved;
        flux_r[(w.x >> FLUX_D) & 63u] = moved;
        flux_next(s, w, code);
    }
}

bool flux_is_arithmetic(uvec4 w) {
    uint op = (w.x >> FLUX_KIND) & 15u;
    return int(w.x) >= 0 || (op >= FLUX_X_DIV && op <= FLUX_X_BOUNDS);
}

// Runs from s.pc until the program stops. `code`: texel of its first word; `length`: of its code in bytes; `draw`: what
// RANDOM is made from. Registers are in flux_r; afterwards s.pc is the offset that the program stopped at.
void flux_run(inout FluxState s, uint code, uint length, uint max_steps, uvec4 draw, uvec2 seed) {
    uvec4 w = flux_code(code + s.pc);
    bool live = true;
    do {
        bool again = true;
        do {
            flux_plain(s, w, code, max_steps);
            again = s.steps < max_steps && flux_is_arithmetic(w);
            if (again) flux_arithmetic(s, w, code);
            again = again && s.trap == 0u;
        } while (again);
        uint op = (w.x >> FLUX_KIND) & 15u;
        bool end = int(w.x) < 0 && op == FLUX_X_END, draws = int(w.x) < 0 && op == FLUX_X_RANDOM;
        if (s.trap == 0u && !end && !draws && s.steps >= max_steps) s.trap = FLUX_TRAP_STEP_LIMIT;
        live = s.trap == 0u && !end && op != FLUX_X_HALT;
        if (s.trap == 0u && op == FLUX_X_HALT) {
            s.steps++;
            s.pc = s.pc >= FLUX_BASE ? w.z : flux_r[FLUX_R_LINK];
        }
        if (live && draws) {
            flux_r[(w.x >> FLUX_D) & 63u] = philox4x32_10(draw, seed).x;
            flux_next(s, w, code);
        } else if (live && op == FLUX_X_MEMORY) {
            flux_memory(s, w, code, length);
        } else if (live) {
            flux_alloca(s, w, code);
        }
        live = live && s.trap == 0u;
    } while (live);
    if (live) s.trap = FLUX_TRAP_STEP_LIMIT;    // ended by the driver
    s.pc = s.pc >= FLUX_BASE ? s.pc - FLUX_BASE : flux_r[FLUX_R_LINK] - FLUX_BASE - 1u;
}
