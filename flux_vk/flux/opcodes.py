"""The one table of opcodes: assembler, disassembler, both interpreters, documentation and tests are made from it.

Rules that hold for all of them: operands are read before anything is written; an instruction that traps writes nothing
and is not counted as a step; integers wrap to 32 bits in two's complement; every float result is rounded to 32 bits.
"Flags of x" means Z = (x == 0), S = C = (x < 0), O = 0, of the wrapped result; where no flags are named, all four keep
their values. The words of the table bind the reference VM and the shader. The instruction set is "System A" of the
public FLUX runtime (MIT), with lengths as its interpreter consumes them. Not for: decoding (instructions.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .operands import Operand

# "= group"; then "BYTE NAME operands | effect | marks" and, indented, the meaning of the lines right above.
# Marks: ZSCO, the flags that are written; host, not offered on the GPU; stops, the next instruction never follows.
# In effects {0}, {1} ... are the operands as listings show them.
TABLE = """\
= control
00 NOP                            | nothing
    No effect.
04 JMP              pad rel       | go to {1}                                   | stops
    Jump. The first byte is ignored. A taken jump to what is neither the start of an instruction nor the end of
    the code traps BAD_ADDRESS.
05 JZ               rs rel        | if {0} == 0 go to {1}
06 JNZ              rs rel        | if {0} != 0 go to {1}
    Jump if the register is 0, or is not 0.
07 CALL             pad rel       | call {1}
    Push the offset of the next instruction (as PUSH), then jump. The first byte is ignored. The stack is
    checked before the target.
28 RET                            | return                                      | stops
    If SP >= 65536: stop, as HALT does. Else pop (as POP) and jump to that offset, which must be the start of an
    instruction or the end of the code, else BAD_ADDRESS.
29 CALL_IND         pad rs        | call the offset in {1}
    Push the offset of the next instruction, then jump to the offset that the register held before. The first
    byte is ignored. The stack is checked before the target, which must be the start of an instruction or the
    end of the code, else BAD_ADDRESS.
2A TAILCALL         pad rel       | go to {1}                                   | stops
    Jump without a push; the first byte is ignored.
2E JE               pad rel       | if equal go to {1}
2F JNE              pad rel       | if not equal go to {1}
36 JL               pad rel       | if less go to {1}
37 JGE              pad rel       | if greater or equal go to {1}
4D JG               pad rel       | if greater go to {1}
4E JLE              pad rel       | if less or equal go to {1}
    Jump by flags: JE if Z, JNE if not Z, JL if S, JGE if not S, JG if neither Z nor S, JLE if Z or S. The first byte is
    ignored.
80 HALT                           | stop                                        | stops
    Stop; counted as a step. pc is left behind the instruction.
= integer
01 MOV              rd rs         | {0} = {1}
    Copy. No flags.
08 IADD             rd rs rs      | {0} = {1} + {2}                             | ZSCO
    Sum, wrapped. Flags of the result.
09 ISUB             rd rs rs      | {0} = {1} - {2}                             | ZSCO
    Difference, wrapped. Flags of the result.
0A IMUL             rd rs rs      | {0} = {1} * {2}                             | ZSCO
    Low 32 bits of the product. Flags of the result.
0B IDIV             rd rs rs      | {0} = {1} / {2}                             | ZSCO
    Quotient, truncated toward 0; -2147483648 / -1 wraps to -2147483648. A divisor of 0 traps DIVIDE_BY_ZERO.
    Flags of the result.
0C IMOD             rd rs rs      | {0} = {1} mod {2}                           | ZSCO
    Remainder of the truncated division: it has the dividend's sign; by -1 it is 0. A divisor of 0 traps
    DIVIDE_BY_ZERO. Flags of the result.
0D INEG             rd rs         | {0} = -{1}                                  | ZSCO
    Negation, wrapped. Flags of the result.
0E INC              rx            | {0} += 1                                    | ZSCO
    Add 1, wrapped. Flags of the result.
0F DEC              rx            | {0} -= 1                                    | ZSCO
    Subtract 1, wrapped. Flags of the result.
10 IAND             rd rs rs      | {0} = {1} & {2}                             | ZSCO
    Bitwise and. Flags of the result.
11 IOR              rd rs rs      | {0} = {1} or {2}                            | ZSCO
    Bitwise or. Flags of the result.
12 IXOR             rd rs rs      | {0} = {1} ^ {2}                             | ZSCO
    Bitwise exclusive or. Flags of the result.
13 INOT             rd rs         | {0} = ~{1}                                  | ZSCO
    Bitwise not. Flags of the result.
14 ISHL             rd rs rs      | {0} = {1} << {2}                            | ZSCO
    Shift left by n = third & 63; n above 31 gives 0. Flags of the result.
15 ISHR             rd rs rs      | {0} = {1} >> {2}                            | ZSCO
    Arithmetic shift right by n = third & 63; n above 31 gives the sign, 0 or -1. Flags of the result.
16 ROTL             rd rs rs      | {0} = {1} rotated left by {2}               | ZSCO
    Rotate the 32 bits left by third & 31. Flags of the result.
17 ROTR             rd rs rs      | {0} = {1} rotated right by {2}              | ZSCO
    Rotate the 32 bits right by third & 31. Flags of the result.
2B MOVI             rd i16        | {0} = {1}
    Load the sign-extended number. No flags.
2C IREM             rd rs rs      | {0} = {1} mod {2}                           | ZSCO
    Remainder of the truncated division: it has the dividend's sign; by -1 it is 0. A divisor of 0 traps
    DIVIDE_BY_ZERO. Flags of the result.
= compare
18 ICMP             icond rx rs   | {1} = 1 if {1} {0} {2} else 0               | ZSCO
    Compare by condition (0 EQ, 1 NE, 2 LT, 3 LE, 4 GT, 5 GE; 6 ULT, 7 ULE, 8 UGT, 9 UGE without sign); the
    second operand becomes 1 or 0. Flags of that result.
19 IEQ              rx rs         | {0} = 1 if {0} == {1} else 0                | ZSCO
1A ILT              rx rs         | {0} = 1 if {0} < {1} else 0                 | ZSCO
1B ILE              rx rs         | {0} = 1 if {0} <= {1} else 0                | ZSCO
1C IGT              rx rs         | {0} = 1 if {0} > {1} else 0                 | ZSCO
1D IGE              rx rs         | {0} = 1 if {0} >= {1} else 0                | ZSCO
    The first register becomes 1 if it is ==, <, <=, > or >= the second (with sign), else 0. Flags of that result.
1E TEST             rs rs         | flags of {0} & {1}                          | ZSCO
    Flags of the bitwise and; nothing else.
1F SETCC            rd cc         | {0} = 1 if {1} else 0
    1 if the condition holds, else 0: 0 EQ (Z), 1 NE (not Z), 2 LT (S), 3 GE (not S), 4 GT (not Z and not S), 5
    LE (Z or S), 6 CS (C), 7 CC (not C), 8 VS (O), 9 VC (not O). Flags keep their values.
2D CMP              rs rs         | compare {0} with {1}                        | ZSCO
    Z = (a == b), S = C = (a < b) with sign, O = 0.
= stack
20 PUSH             rs            | push {0}
    SP -= 4, store the register as it was before. SP < 4 traps STACK_OVERFLOW, SP > 65536 BAD_ADDRESS; a place
    outside the windows of a GPU traps STACK_OVERFLOW.
21 POP              rd            | pop {0}
    Load the word at SP, SP += 4, then write the register (POP SP: the word wins). SP > 65532 traps
    STACK_UNDERFLOW, SP < 0 or a place outside the windows of a GPU BAD_ADDRESS.
22 DUP                            | push the top again
    Read the top (checks as POP), push it (checks as PUSH).
23 SWAP                           | exchange the two top words
    Exchange the words at SP and SP + 4. SP > 65528 traps STACK_UNDERFLOW, SP < 0 or a word outside the windows
    of a GPU BAD_ADDRESS.
24 ROT                            | move the top word below the next two
    Words at SP, SP + 4, SP + 8: a, b, c become b, c, a (from the bottom: c, b, a becomes a, c, b). SP > 65524
    traps STACK_UNDERFLOW, SP < 0 or a word outside the windows of a GPU BAD_ADDRESS.
25 ENTER            u8            | push FP, FP = SP, SP -= 4 * {0}
    Push FP (R14; checks as PUSH), FP = the new SP, then SP -= 4 n. An SP below 0 traps STACK_OVERFLOW. The room
    itself is not touched.
26 LEAVE            pad           | SP = FP, pop FP
    SP = FP, then pop FP (checks as POP, at FP). The byte is ignored.
27 ALLOCA           rd rs         | SP -= 4 * {1}, {0} = SP
    Take n words off the stack: SP -= 4 n, then the first register = SP. n < 0, SP < 0 or 4 n > SP traps
    STACK_OVERFLOW. No flags.
= memory
02 LOAD             rd rs         | {0} = word at {1}
    The 4 bytes at that address, at any alignment. An address outside the stack region, or outside the windows
    of a GPU, traps BAD_ADDRESS.
03 STORE            rs rs         | word at {1} = {0}
    Store 4 bytes, at any alignment. An address outside the stack region, or outside the windows of a GPU, traps
    BAD_ADDRESS.
30 REGION_CREATE    data          | region create {0}                           | host
    Make a region of zeros: name length (1 byte), name, size (u32), owner length (1 byte), owner. R0 = 0. A name
    that exists, more than 256 regions, or regions of more than 16 MiB in all trap OTHER. A payload that is too
    short traps OTHER.
31 REGION_DESTROY   data          | region destroy {0}                          | host
    Remove a region: the payload is its name. Unknown names trap OTHER.
32 REGION_TRANSFER  data          | region transfer {0}                         | host
    Give a region away: name length (1 byte), name, owner length (1 byte), owner. Unknown names trap OTHER. A
    payload that is too short traps OTHER.
33 MEMCOPY          data          | memcopy {0}                                 | host
    Copy inside a region: name length (1 byte), name, from, to, size (u32 each). Outside the region:
    BAD_ADDRESS; an unknown name: OTHER. A payload that is too short traps OTHER.
34 MEMSET           data          | memset {0}                                  | host
    Fill: name length (1 byte), name, offset (u32), value (1 byte), size (u32). Outside the region: BAD_ADDRESS;
    an unknown name: OTHER. A payload that is too short traps OTHER.
35 MEMCMP           data          | memcmp {0}                                  | host
    Compare as bytes: name length (1 byte), name, offset, offset, size (u32 each). R0 = -1, 0 or 1. Outside the
    region: BAD_ADDRESS; an unknown name: OTHER. A payload that is too short traps OTHER.
4F LOAD8            rd rs         | {0} = byte at {1}
    The byte at that address, 0-255. An address outside the stack region, or outside the windows of a GPU, traps
    BAD_ADDRESS.
57 STORE8           rs rs         | byte at {1} = {0}
    Store the low 8 bits. An address outside the stack region, or outside the windows of a GPU, traps
    BAD_ADDRESS.
= float
40 FADD             fd fs fs      | {0} = {1} + {2}
    Sum. Overflow gives an infinity. No flags.
41 FSUB             fd fs fs      | {0} = {1} - {2}
    Difference. Overflow gives an infinity. No flags.
42 FMUL             fd fs fs      | {0} = {1} * {2}
    Product. Overflow gives an infinity. No flags.
43 FDIV             fd fs fs      | {0} = {1} / {2}
    Quotient; a divisor of 0 or -0 traps DIVIDE_BY_ZERO. Overflow gives an infinity. No flags.
44 FNEG             fd fs         | {0} = -{1}
    The sign bit turned round, of 0 and NaN too.
45 FABS             fd fs         | {0} = abs({1})
    The sign bit cleared.
46 FMIN             fx fs         | {0} = min({0}, {1})
    The first register keeps its value if it is < the second, else it becomes the second: equal zeros and NaN on
    either side give the second.
47 FMAX             fx fs         | {0} = max({0}, {1})
    The first register keeps its value if it is > the second, else it becomes the second: equal zeros and NaN on
    either side give the second.
48 FEQ              fr fs         | R of {0} = 1 if {0} == {1} else 0
49 FLT              fr fs         | R of {0} = 1 if {0} < {1} else 0
4A FLE              fr fs         | R of {0} = 1 if {0} <= {1} else 0
4B FGT              fr fs         | R of {0} = 1 if {0} > {1} else 0
4C FGE              fr fs         | R of {0} = 1 if {0} >= {1} else 0
    The integer register with the first operand's number becomes 1 if the float register of that number is ==, <, <=, >
    or >= the second, else 0 (with a NaN: 0). No flags.
= type
38 CAST             rd rs cast    | {0} = {2} of {1}
    0: the bits as a 32-bit float, times 1000 rounded to 32 bits, truncated, saturated to int32, NaN gives 0. 1
    and 3: copy. 2: 1 if not 0, else 0. No flags.
39 BOX              rd u8 i32     | {0} = new box of type {1} with {2}          | host
    Make a box; its number counts from 0. More than 65536 boxes trap OTHER.
3A UNBOX            rd rs         | {0} = what is in box {1}                    | host
    An unknown box traps OTHER.
3B CHECK_TYPE       rs u8         | box {0} must have type {1}                  | host
    Another type, or an unknown box, traps OTHER.
3C CHECK_BOUNDS     rs rs         | {0} must be in [0, {1})
    Traps OTHER unless 0 <= first < second.
= vector
50 VLOAD            vd rs         | {0} = 16 bytes at {1}                       | host
51 VSTORE           vs rs         | 16 bytes at {1} = {0}                       | host
    An address outside the stack region traps BAD_ADDRESS.
52 VADD             vx vs         | {0} = {0} + {1}                             | host
53 VSUB             vx vs         | {0} = {0} - {1}                             | host
54 VMUL             vx vs         | {0} = {0} * {1}                             | host
    Bytes without sign; a result outside 0-255 traps OTHER.
55 VDIV             vx vs         | {0} = {0} / {1}                             | host
    Bytes without sign, truncated; any divisor of 0 traps DIVIDE_BY_ZERO.
56 VFMA             vx vs vs      | {0} += {1} * {2}                            | host
    Bytes without sign; a result outside 0-255 traps OTHER.
= agents
60 TELL             data          | tell {0}                                    | host
61 ASK              data          | ask {0}                                     | host
62 DELEGATE         data          | delegate {0}                                | host
63 DELEGATE_RESULT  data          | delegate result {0}                         | host
64 REPORT_STATUS    data          | report status {0}                           | host
65 REQUEST_OVERRIDE data          | request override {0}                        | host
66 BROADCAST        data          | broadcast {0}                               | host
67 REDUCE           data          | reduce {0}                                  | host
68 DECLARE_INTENT   data          | declare intent {0}                          | host
69 ASSERT_GOAL      data          | assert goal {0}                             | host
6A VERIFY_OUTCOME   data          | verify outcome {0}                          | host
6B EXPLAIN_FAILURE  data          | explain failure {0}                         | host
6C SET_PRIORITY     data          | set priority {0}                            | host
70 TRUST_CHECK      data          | trust check {0}                             | host
71 TRUST_UPDATE     data          | trust update {0}                            | host
72 TRUST_QUERY      data          | trust query {0}                             | host
73 REVOKE_TRUST     data          | revoke trust {0}                            | host
    Given to the host's A2A handler as (name, payload); what it answers goes to R0. Without handler: no effect.
74 CAP_REQUIRE      data          | cap require {0}                             | host
    Traps OTHER unless the capability (u32) is granted; R0 = 0. With fewer than 4 bytes R0 = 1 and nothing else
    happens.
75 CAP_REQUEST      data          | cap request {0}                             | host
    Given to the host's A2A handler as (name, payload); what it answers goes to R0. Without handler: no effect.
76 CAP_GRANT        data          | cap grant {0}                               | host
    Grant the capability (u32); R0 = 0. With fewer than 4 bytes R0 = 1 and nothing else happens.
77 CAP_REVOKE       data          | cap revoke {0}                              | host
    Revoke the capability (u32); R0 = 0. With fewer than 4 bytes R0 = 1 and nothing else happens.
78 BARRIER          data          | barrier {0}                                 | host
79 SYNC_CLOCK       data          | sync clock {0}                              | host
7A FORMATION_UPDATE data          | formation update {0}                        | host
    Given to the host's A2A handler as (name, payload); what it answers goes to R0. Without handler: no effect.
7B EMERGENCY_STOP                 | stop everything                             | host stops
    Stop, as HALT does, and call the A2A handler with an empty payload; its answer goes to R0.
= meta
3D CONF             pad i16       | nothing                                     | host
    No effect.
3E MERGE            rd rs rs      | {0} = ({1} + {2}) / 2                       | host
    Mean of two registers, rounded down; the sum does not wrap. No flags.
3F RESTORE          pad i16       | nothing                                     | host
    No effect.
7C EVOLVE           rd i16        | {0} = generation after a fitness of {1}     | host
    Count a generation: the register = how many EVOLVE have run. The fitness (number + 32768) / 65535 is not
    used.
7D INSTINCT         rd i16        | {0} = {1}                                   | host
    Load the sign-extended number (as MOVI).
7E WITNESS          rd i16        | {0} = number of notes                       | host
    Count a note: the register = how many WITNESS have run.
7F SNAPSHOT         pad i16       | nothing                                     | host
    No effect.
= system
81 YIELD                          | nothing
    No effect.
82 RESOURCE_ACQUIRE data          | acquire {0}                                 | host
    Take the resource (u32). R0 = 0; with fewer than 4 bytes R0 = 1.
83 RESOURCE_RELEASE data          | release {0}                                 | host
    Give the resource (u32) back. R0 = 0; with fewer than 4 bytes R0 = 1.
84 DEBUG_BREAK                    | break                                       | host
    No effect.
= physics
B0 PHY_ABSORB       fd fs fs      | {0} = physics of {1} and {2}                | host
B1 PHY_SCATTER      fd fs fs      | {0} = physics of {1} and {2}                | host
B2 PHY_JERLOV       fd fs fs      | {0} = physics of {1} and {2}                | host
B3 PHY_THERMO       fd fs fs      | {0} = physics of {1} and {2}                | host
B4 PHY_SEABED       fd fs fs      | {0} = physics of {1} and {2}                | host
B5 PHY_ATTEN        fd fs fs      | {0} = physics of {1} and {2}                | host
B6 PHY_VISIB        fd fs fs      | {0} = physics of {1} and {2}                | host
B7 PHY_SOUNDV       fd fs fs      | {0} = physics of {1} and {2}                | host
B8 PHY_REFRAC       fd fs fs      | {0} = physics of {1} and {2}                | host
    Marine physics, which this machine leaves out: always traps NOT_OFFERED.
"""


@dataclass(frozen=True)
class Opcode:
    """One operation. `effect` is a template for listings, to be formatted with the operands as they are written."""

    byte: int
    name: str
    operands: tuple[Operand, ...]
    group: str
    effect: str
    meaning: str
    flags: str = ""
    """The flags that it writes, of "ZSCO"; the others keep their values."""
    gpu: bool = True
    """Whether programs for the GPU may hold it."""
    falls: bool = True
    """Whether the next instruction may follow it (not so for HALT, JMP, RET and the like)."""
    cost: int = 1
    """Steps that it counts against the step limit: 1 for all, as upstream counts cycles."""

    @property
    def length(self) -> int | None:
        """Bytes of the instruction; None where a payload gives it (3 + its length)."""
        if Operand.DATA in self.operands:
            return None
        return 1 + sum(kind.size for kind in self.operands)


def _read(table: str) -> Iterator[Opcode]:
    """The opcodes of the text above."""
    group = meaning = ""
    above: list[Opcode] = []
    for line in table.splitlines():
        if line.startswith(" "):
            meaning = f"{meaning} {line.strip()}".strip()
            continue
        if meaning:
            yield from (replace(op, meaning=meaning) for op in above)
            above, meaning = [], ""
        if line.startswith("="):
            group = line[2:]
        else:
            above.append(_head(line, group))
    yield from (replace(op, meaning=meaning) for op in above)


def _head(line: str, group: str) -> Opcode:
    words, effect, *marks = (part.strip() for part in line.split(" |"))
    byte, name, *kinds = words.split()
    found = set(marks[0].split()) if marks else set()
    return Opcode(
        int(byte, 16), name, tuple(Operand(kind) for kind in kinds), group, effect, "",
        flags="ZSCO" if "ZSCO" in found else "", gpu="host" not in found, falls="stops" not in found,
    )  # fmt: skip


OPCODES: Mapping[int, Opcode] = MappingProxyType({op.byte: op for op in _read(TABLE)})
"""All operations by their byte."""
BY_NAME: Mapping[str, Opcode] = MappingProxyType({op.name: op for op in OPCODES.values()})
"""All operations by their mnemonic."""
