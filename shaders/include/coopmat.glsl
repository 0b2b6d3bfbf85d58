// Cooperative matrices behind a few names, so that one shader serves the extension and devices that lack it: A is weights
// [CM_M, CM_K], B activations [CM_K, CM_N], both 16-bit, ACC [CM_M, CM_N] 32-bit sums, all spread over the SG
// invocations of a subgroup. COOPMAT 1: GL_NV_cooperative_matrix, from which native/coopmat_khr.py also makes the KHR
// form; the three types differ in their sizes' constants even where those are equal, which it needs to tell them apart.
// COOPMAT 0: plain arrays and shuffles, for tests on devices without; SG must divide CM_K and CM_N.
// Staged tiles hold a row of k for every weight row and every token, STRIDE elements apart.
#if COOPMAT
#define CM_LOOP [[unroll]] for                 // over matrices
#define CM_A fcoopmatNV<16, gl_ScopeSubgroup, CM_M, CM_K>
#define CM_B fcoopmatNV<16, gl_ScopeSubgroup, CM_K, CM_N>
#define CM_ACC fcoopmatNV<32, gl_ScopeSubgroup, CM_M, CM_N>

#define cm_zero(acc) acc = CM_ACC(0.0)
#define cm_load_a(a, tile, at) coopMatLoadNV(a, tile, at, STRIDE, false)
#define cm_load_b(b, tile, at) coopMatLoadNV(b, tile, at, STRIDE, true)
#define cm_mul_add(a, b, acc) acc = coopMatMulAddNV(a, b, acc)
#define cm_store(acc, target, at) coopMatStoreNV(acc, target, at, CM_M, true)     // token after token
#else
#define CM_LOOP [[dont_unroll]] for            // unrolled, a multiplication of 16 x 16 x 16 compiles for minutes
struct CM_A { float16_t e[CM_M * CM_K / SG]; };      // row, k: invocation k % SG, its element row * CM_K / SG + k / SG
struct CM_B { float16_t e[CM_K * CM_N / SG]; };      // k, n: invocation n % SG, its element k * CM_N / SG + n / SG
struct CM_ACC { float e[CM_M * CM_N / SG]; };        // row, n: invocation n % SG, its element row * CM_N / SG + n / SG

#define cm_zero(acc) CM_LOOP (uint i_ = 0u; i_ < CM_M * CM_N / SG; i_++) acc.e[i_] = 0.0

#define cm_load_a(a, tile, at)                                                              \
    CM_LOOP (uint i_ = 0u; i_ < CM_M * CM_K / SG; i_++) {                                       \
        uint flat_ = i_ * SG + gl_SubgroupInvocationID;                                     \
        a.e[i_] = tile[(at) + flat_ / CM_K * STRIDE + flat_ % CM_K];                        \
    }

#define cm_load_b(b, tile, at)                                                              \
    CM_LOOP (uint i_ = 0u; i_ < CM_K * CM_N / SG; i_++) {                                       \
        uint flat_ = i_ * SG + gl_SubgroupInvocationID;                                     \
        b.e[i_] = tile[(at) + flat_ % CM_N * STRIDE + flat_ / CM_N];                        \
    }

void cm_mul_add(CM_A a, CM_B b, inout CM_ACC acc) {
    CM_LOOP (uint i = 0u; i < CM_M * CM_N / SG; i++) {
        uint row = i / (CM_N / SG), column = i % (CM_N / SG);
        CM_LOOP (uint k = 0u; k < CM_K; k++) {
            float v = subgroupShuffle(float(a.e[row * (CM_K / SG) + k / SG]), k % SG);
            acc.e[i] = fma(v, float(b.e[k * (CM_N / SG) + column]), acc.e[i]);
        }
    }
}

#define cm_store(acc, target, at)                                                           \
    CM_LOOP (uint i_ = 0u; i_ < CM_M * CM_N / SG; i_++) {                                       \
        uint flat_ = i_ * SG + gl_SubgroupInvocationID;                                     \
        target[(at) + flat_ % CM_N * CM_M + flat_ / CM_N] = acc.e[i_];                      \
    }
#endif
