// How a workgroup shares out its stretch of neighbouring vectors, `items` of them for each invocation. On GPUs a
// workgroup reads neighbours at once. llvmpipe (LANE) runs eight invocations through the whole loop before the next
// eight begin, so each eight have a stretch of their own: else every step of theirs would skip most of a page.
// Invocation t does begin, begin + STRETCH_STEP, ... below its end.

#ifdef LANE
const uint STRETCH_STEP = 8u;
uint stretch_begin(uint t, uint items) { return t / 8u * 8u * items + t % 8u; }
uint stretch_end(uint t, uint items) { return (t / 8u + 1u) * 8u * items; }
#else
const uint STRETCH_STEP = WG;
uint stretch_begin(uint t, uint items) { return t; }
uint stretch_end(uint t, uint items) { return WG * items; }
#endif
