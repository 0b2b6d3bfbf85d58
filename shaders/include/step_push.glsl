// Numbers that rope_store's and attention's bodies share: push constants, copied once in front of all control flow, since
// inside it llvmpipe gathers them lane by lane. A kernel that has both bodies includes this once, through either.
#ifndef STEP_PUSH
#define STEP_PUSH
uint heads, kv_heads, slots, max_pages, row_stride;
#endif
