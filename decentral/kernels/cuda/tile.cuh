/* What all CUDA kernels of decentral share: the layout, exact arithmetic, Philox, warps.
 *
 * Layout. A message of one variable is rows (agents or arcs) of d entries. A row is cut into tiles of 1024 entries,
 * 32 rows x 32 lanes, entry e = 32 r + lane. One warp serves one tile: it reads a row of the tile in one transaction,
 * and a lane packs the 32 codes of its column into exactly `WIDTH` words, lowest row in the lowest bits; word j of all
 * lanes is contiguous. The last tile may be partial; its codes are one bit stream, in the order of the entries, and 32
 * codes of a row of the tile are again exactly WIDTH words. The kernels are given all rows at once: warp number
 * row * tiles + tile. A row of the payload is `row_bytes` long, its scales (float32, one a block) come first. Rows may
 * begin at any byte.
 *
 * Bits. All of it, arithmetic and wire, is specified by NumPy code: compressors/grid.py, sign.py, sparse.py, random.py.
 * The same bits come out here since every operation is one of the named round-to-nearest functions below, which no
 * compiler contracts; never use --use_fast_math, which flushes denormals. Sums are in the order of `tree_sum`.
 *
 * Names of parameters: v (rows, d) what is sent, u (rows, d) its reference, ids (rows,) of agents or arcs, block the
 * entries under one scale, scales the number of them in a row, bad (rows,) set to 1 where a row must be refused.
 * Entries of rows and tiles are counted in 64 bits. Needs sm_80.
 *
 * tests/gpu runs this text on the CPU, with the CUDA names defined by emulator.h.
 */
#ifndef DECENTRAL_TILE
#define DECENTRAL_TILE

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

enum { LANES = 32, TILE = 1024, WARPS = 8, THREADS = 256 };
enum Norm { LARGEST = 0, TWO_NORM = 1, HALF_LARGEST = 2, MEAN = 3, GIVEN = 4 }; /* what a scale is; or it is there already */

enum Encoding { PLAIN = 0, DIFFERENCE = 1, FEEDBACK = 2 };                      /* C(v); C(v − u); and u moves by it */

#define ALL 0xFFFFFFFFu
#define INLINE __device__ __forceinline__
#define KERNEL __global__ void __launch_bounds__(THREADS)

/* --- Arithmetic, rounded once each -------------------------------------------------------------------------------- */

INLINE float add(float a, float b) { return __fadd_rn(a, b); }
INLINE double add(double a, double b) { return __dadd_rn(a, b); }
INLINE float sub(float a, float b) { return __fsub_rn(a, b); }
INLINE double sub(double a, double b) { return __dsub_rn(a, b); }
INLINE float mul(float a, float b) { return __fmul_rn(a, b); }
INLINE double mul(double a, double b) { return __dmul_rn(a, b); }
INLINE float mul_add(float a, float b, float c) { return __fmaf_rn(a, b, c); } /* only where the result is exact */
INLINE double mul_add(double a, double b, double c) { return __fma_rn(a, b, c); }
INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }
INLINE double divide(double a, double b) { return __ddiv_rn(a, b); }
INLINE int round_down(float a) { return __float2int_rd(a); }
INLINE int round_down(double a) { return __double2int_rd(a); }

/* Magnitudes as integers: their order is the order of magnitudes, infinity and NaN come last. */
INLINE u32 magnitude(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }
INLINE u64 magnitude(double x) { return (u64)__double_as_longlong(x) & 0x7FFFFFFFFFFFFFFFull; }
INLINE double from_magnitude(u32 m) { return __uint_as_float(m); }
INLINE double from_magnitude(u64 m) { return __longlong_as_double((i64)m); }
INLINE bool finite(u32 m) { return m < 0x7F800000u; }
INLINE bool finite(u64 m) { return m < 0x7FF0000000000000ull; }

template <typename Real> struct Magnitude; /* its type and bits */
template <> struct Magnitude<float> {
    typedef u32 type;
    enum { BITS = 31 };
};
template <> struct Magnitude<double> {
    typedef u64 type;
    enum { BITS = 63 };
};

INLINE i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
INLINE int least(i64 a, i64 b) { return (int)(a < b ? a : b); }

/* The smallest float at or above m in {0} or 2^-110..2^126; false where there is none. */
INLINE bool scale_above(double m, float *scale) {
    float s = __double2float_ru(m);
    if (s > 0 && s < 0x1p-110f) s = 0x1p-110f;
    *scale = s;
    return s <= 0x1p126f; /* false for NaN */
}

INLINE bool is_scale(float s) { return s == 0 || (s >= 0x1p-110f && s <= 0x1p126f); }

/* --- Warps -------------------------------------------------------------------------------------------------------- */

INLINE int lane_of() { return (int)(threadIdx.x % LANES); }
INLINE int warp_of() { return (int)(threadIdx.x / LANES); }

/* The row and tile of this warp; false where there is none, for the whole warp. */
INLINE bool own_tile(i64 rows, i64 tiles, i64 *row, i64 *tile) {
    const i64 warp = (i64)blockIdx.x * WARPS + warp_of();
    *row = warp / tiles;
    *tile = warp - *row * tiles;
    return *row < rows;
}

INLINE u32 warp_max(u32 m) { return __reduce_max_sync(ALL, m); }

INLINE u64 warp_max(u64 m) {
    for (int half = LANES / 2; half; half /= 2) {
        const u64 other = __shfl_xor_sync(ALL, m, half);
        m = other > m ? other : m;
    }
    return m;
}

/* Lanes halved: 0..15 + 16..31, then 8, 4, 2, 1; the same bits in every lane. */
INLINE double warp_sum(double s) {
    for (int half = LANES / 2; half; half /= 2) s = add(s, __shfl_xor_sync(ALL, s, half));
    return s;
}

/* Entries by pairs, an odd one carried over: what `tree_sum` does with tiles. All threads of a block call it. */
INLINE void pair_sums(double *x, i64 count) {
    for (i64 stride = 1; stride < count; stride *= 2) {
        __syncthreads();
        for (i64 i = 2 * stride * threadIdx.x; i + stride < count; i += 2 * stride * blockDim.x) x[i] = add(x[i], x[i + stride]);
    }
    __syncthreads();
}

/* --- Bytes: rows of a payload begin anywhere, and are read or written once ---------------------------------------- */

INLINE u32 load_word(const u8 *p, i64 left = 4) { /* of the `left` bytes that are there */
    if (left >= 4 && ((u64)p & 3) == 0) return __ldcs((const u32 *)p);
    u32 word = 0;
    for (int i = 0; i < 4; i++)
        if (i < left) word |= (u32)p[i] << 8 * i;
    return word;
}

INLINE void store_word(u8 *p, u32 word, i64 left = 4) {
    if (left >= 4 && ((u64)p & 3) == 0) {
        __stcs((u32 *)p, word);
        return;
    }
    for (int i = 0; i < 4; i++)
        if (i < left) p[i] = (u8)(word >> 8 * i);
}

/* 32 codes, one a lane, as WIDTH words of a bit stream: word j in lane j, 0 in the other lanes. */
template <int WIDTH> INLINE u32 pack_row(u32 code) {
    const int lane = lane_of(), first = LANES * lane / WIDTH; /* the lane whose code holds the first bit of word `lane` */
    if (WIDTH == 1) {
        const u32 word = __ballot_sync(ALL, code);
        return lane == 0 ? word : 0;
    }
    u32 word = 0;
#pragma unroll
    for (int i = 0; i < (LANES - 1) / WIDTH + 2; i++) {
        const int from = first + i, shift = from * WIDTH - LANES * lane;
        const u32 other = __shfl_sync(ALL, code, from % LANES);
        if (from < LANES && shift < LANES) word |= shift < 0 ? other >> -shift : other << shift;
    }
    return word;
}

/* The inverse: lane j < WIDTH holds word j. */
template <int WIDTH> INLINE u32 unpack_row(u32 word) {
    const int bit = lane_of() * WIDTH;
    const u32 low = __shfl_sync(ALL, word, bit / LANES), high = __shfl_sync(ALL, word, (bit / LANES + 1) % LANES);
    return (u32)(((u64)high << LANES | low) >> bit % LANES) & ((1u << WIDTH) - 1);
}

/* --- Philox4x32-10 ------------------------------------------------------------------------------------------------ */

/* The key and the words of the counter that all rows share; see random.py. */
struct Key {
    u64 seed;
    u32 round, tag;
};

/* Block `index` of the words of row `id`. */
INLINE void philox(const Key &key, u32 id, u32 index, u32 out[4]) {
    u32 a = index, b = id, c = key.round, d = key.tag, k0 = (u32)key.seed, k1 = (u32)(key.seed >> 32);
#pragma unroll
    for (int i = 0; i < 10; i++) {
        const u64 x = (u64)a * 0xD2511F53u, y = (u64)c * 0xCD9E8D57u;
        a = (u32)(y >> 32) ^ b ^ k0, b = (u32)y;
        c = (u32)(x >> 32) ^ d ^ k1, d = (u32)x;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

#endif
