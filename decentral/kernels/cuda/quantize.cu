/* The quantizer, compressors/grid.py: scales, codes, and back.
 *
 * Where the blocks that a tile touches lie inside it (block divides 1024, or the row is one tile), the warp of the tile
 * finds their scales itself and v is read once. Elsewhere the kernels of scales.cu write the scales first (GIVEN).
 * Lane k of a warp holds the scale of the k-th block that its tile touches; bit r of `ends` says that a block ends with
 * row r of the tile.
 *
 * A full tile stays in registers: its loops are unrolled. A partial one (FULL = false) is small or rare: a loop over its
 * rows that reads them again.
 */
#include "tile.cuh"

/* One tile of v, or of v − u. */
template <typename Real, int MODE, bool FULL> struct Entries {
    const Real *v, *u; /* at the tile's first entry */
    int n;             /* entries */
    Real sent[FULL ? LANES : 1], reference[FULL && MODE == FEEDBACK ? LANES : 1];

    INLINE Real load(const Real *from, int r) const {
        const int e = LANES * r + lane_of();
        return FULL || e < n ? __ldcs(from + e) : (Real)0;
    }
    INLINE Entries(const Real *v, const Real *u, int n) : v(v), u(u), n(n) {
        if constexpr (FULL) {
            Real minus[LANES];
#pragma unroll
            for (int r = 0; r < LANES; r++) sent[r] = load(v, r);
            if constexpr (MODE != PLAIN) {
#pragma unroll
                for (int r = 0; r < LANES; r++) minus[r] = load(u, r); /* all loads before the first use */
#pragma unroll
                for (int r = 0; r < LANES; r++) {
                    sent[r] = sub(sent[r], minus[r]);
                    if constexpr (MODE == FEEDBACK) reference[r] = minus[r];
                }
            }
        }
    }
    INLINE Real entry(int r) const {
        if constexpr (FULL) return sent[r];
        else if constexpr (MODE != PLAIN) return sub(load(v, r), load(u, r));
        else return load(v, r);
    }
    INLINE Real old(int r) const {
        if constexpr (FULL) return reference[r];
        else return load(u, r);
    }
};

/* `ends` of the tile that begins at `start`. */
INLINE u32 ends_of(i64 start, i64 block) {
    const int each = least(LANES, ceil_div(block, LANES));
    u32 ends = 0;
    for (i64 r = ceil_div((start / block + 1) * block - start, LANES); r <= LANES; r += each) ends |= 1u << (r - 1);
    return ends;
}

template <typename Real, int WIDTH, int MODE, int NORM, bool FULL>
INLINE void encode_tile(const Key &key, u32 id, const Real *v, Real *u, Real *out, Real eta, u8 *payload, i64 start, i64 d,
                        i64 block, u32 ends, int top, int dithered, int *bad) {
    const int lane = lane_of(), n = FULL ? TILE : least(TILE, d - start), rows = FULL ? LANES : (n + LANES - 1) / LANES;
    const i64 scales = ceil_div(d, block), first_block = start / block;
    const Entries<Real, MODE, FULL> tile(v + start, MODE != PLAIN ? u + start : 0, n);

    float scale = 0;
    const bool holds = lane <= (start + n - 1) / block - first_block;
    u8 *own_scale = payload + 4 * (first_block + lane);
    if constexpr (NORM == GIVEN) {
        if (holds) scale = __uint_as_float(load_word(own_scale));
        ends = ends_of(start, block);
    } else {
        typename Magnitude<Real>::type m = 0, largest = 0; /* so far in this block; of the block of this lane */
        double squares = 0, sum = 0;
        int k = 0;
#pragma unroll(FULL ? LANES : 1)
        for (int r = 0; r < rows; r++) {
            const Real x = tile.entry(r);
            m = magnitude(x) > m ? magnitude(x) : m;
            if (NORM == TWO_NORM) squares = add(squares, mul((double)x, (double)x));
            if (ends >> r & 1 || r == rows - 1) {
                m = warp_max(m);
                if (lane == k) largest = m;
                if (NORM == TWO_NORM) {
                    squares = warp_sum(squares);
                    if (lane == k) sum = squares;
                }
                m = 0, squares = 0, k++;
            }
        }
        double size = from_magnitude(largest);
        if (NORM == TWO_NORM) size = fmax(size, __dsqrt_rn(sum));
        if (!scale_above(size, &scale)) *bad = 1;
        if (holds) store_word(own_scale, __float_as_uint(scale));
    }

    const Real half = (Real)top / 2;
    const int zero = top / 2;
    const Real offset = add(sub(half, (Real)zero), dithered ? (Real)0x1p-17 : (Real)0.5); /* exact */
    const Real inverse = scale > 0 ? divide(half, (Real)scale) : (Real)0, step = divide((Real)scale, half);
    Real inv = __shfl_sync(ALL, inverse, 0), of_block = MODE == FEEDBACK ? __shfl_sync(ALL, step, 0) : (Real)0;
    u8 *codes = payload + 4 * scales + start / LANES * 4 * WIDTH; /* a row of a tile is WIDTH words */
    const i64 bytes = ceil_div((i64)n * WIDTH, 8);
    u64 held = 0;
    int bits = 0, word = 0, k = 0;
#pragma unroll(FULL ? LANES / 8 : 1)
    for (int group = 0; group * 8 < rows; group++) {
        u32 random[4] = {0, 0, 0, 0};
        if (dithered) philox(key, id, (u32)(start / 8 + LANES * group + lane), random);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int r = 8 * group + i, e = LANES * r + lane;
            if (!FULL && r >= rows) break;
            const Real u01 = mul_add((Real)(int)(random[i / 2] >> 16 * (i % 2) & 0xFFFF), (Real)0x1p-16, offset);
            int q = round_down(add(mul(tile.entry(r), inv), u01)) + zero;
            q = max(0, min(q, top));
            if constexpr (MODE == FEEDBACK) {
                if (FULL || e < n) {
                    const Real c = mul(sub((Real)q, half), of_block), old = tile.old(r);
                    if (out) __stcs(out + start + e, add(old, c));
                    u[start + e] = add(old, mul(eta, c));
                }
            }
            if (FULL) {
                held |= (u64)(u32)q << bits;
                bits += WIDTH;
                if (bits >= 32) {
                    store_word(codes + 4 * (LANES * word + lane), (u32)held);
                    held >>= 32, bits -= 32, word++;
                }
            } else {
                const u32 packed = pack_row<WIDTH>(e < n ? (u32)q : 0);
                const i64 to = 4 * (WIDTH * r + lane);
                if (lane < WIDTH) store_word(codes + to, packed, bytes - to);
            }
            if (r + 1 < rows && ends >> r & 1) {
                k++;
                inv = __shfl_sync(ALL, inverse, k);
                if (MODE == FEEDBACK) of_block = __shfl_sync(ALL, step, k);
            }
        }
    }
}

/* payload = C(v), or C(v − u), or with FEEDBACK
 *     q = C(v − u),  out = u + q (where it is not null),  u ← u + η q
 * where v and u are read once unless the scales are GIVEN. The u of a row that is refused is not defined. `ends` is that
 * of every tile where they are not GIVEN, else it is found here. */
template <typename Real, int WIDTH, int MODE, int NORM>
__global__ void __launch_bounds__(THREADS, sizeof(Real) == 4 ? 2 : 1) /* float64 needs the registers */
    quantize_encode(u64 seed, u32 round, u32 tag, const i64 *ids, const Real *v, Real *u, Real *out, Real eta, u8 *payload,
                    i64 rows, i64 d, i64 block, i64 row_bytes, u32 ends, int top, int dithered, int *bad) {
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const Key key = {seed, round, tag};
    const u32 id = (u32)ids[row];
    const i64 at = row * d, start = tile * TILE;
    v += at, u += MODE != PLAIN ? at : 0, out += out ? at : 0, payload += row * row_bytes, bad += row;
    if (d - start >= TILE)
        encode_tile<Real, WIDTH, MODE, NORM, true>(key, id, v, u, out, eta, payload, start, d, block, ends, top, dithered, bad);
    else
        encode_tile<Real, WIDTH, MODE, NORM, false>(key, id, v, u, out, eta, payload, start, d, block, ends, top, dithered, bad);
}

/* One tile of one message; `put` is given the row of the tile, the entry, and what it decodes to. */
template <typename Real, int WIDTH, bool FULL, typename Put>
INLINE void decode_tile(const u8 *payload, i64 start, i64 d, i64 block, int top, Real gain, int *bad, Put put) {
    const int lane = lane_of(), n = FULL ? TILE : least(TILE, d - start), rows = FULL ? LANES : (n + LANES - 1) / LANES;
    const Real half = (Real)top / 2;
    const u8 *codes = payload + 4 * ceil_div(d, block) + start / LANES * 4 * WIDTH;
    u32 words[FULL ? WIDTH : 1];
    if (FULL) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) words[j] = load_word(codes + 4 * (LANES * j + lane));
    }
    const i64 bytes = ceil_div((i64)n * WIDTH, 8);
    const i64 first_block = start / block;
    const u32 ends = ends_of(start, block);
    float scale = 0;
    if (lane <= (start + n - 1) / block - first_block) scale = __uint_as_float(load_word(payload + 4 * (first_block + lane)));
    if (!is_scale(scale)) *bad = 1;
    const Real step = mul(divide((Real)scale, half), gain);
    Real of_block = __shfl_sync(ALL, step, 0);
    int k = 0;
#pragma unroll(FULL ? LANES : 1)
    for (int r = 0; r < rows; r++) {
        u32 code;
        if (FULL) {
            const int j = r * WIDTH / 32, shift = r * WIDTH % 32;
            code = words[j] >> shift;
            if (shift + WIDTH > 32) code |= words[j + 1 < WIDTH ? j + 1 : j] << (32 - shift);
            code &= (1u << WIDTH) - 1;
        } else {
            const i64 from = 4 * (WIDTH * r + lane);
            code = unpack_row<WIDTH>(lane < WIDTH ? load_word(codes + from, bytes - from) : 0);
        }
        const int e = LANES * r + lane, q = code < (u32)top ? (int)code : top;
        if (FULL || e < n) put(r, e, mul(sub((Real)q, half), of_block));
        if (r + 1 < rows && ends >> r & 1) of_block = __shfl_sync(ALL, step, ++k);
    }
}

/* q = gain C; out (rows, d) = q, or with ADVANCE out = u + q (where it is not null), u ← u + η q */
template <typename Real, int WIDTH, bool ADVANCE>
KERNEL quantize_decode(const u8 *payload, Real *u, Real *out, Real eta, i64 rows, i64 d, i64 block, i64 row_bytes, int top,
                       Real gain, int *bad) {
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const i64 start = tile * TILE, at = row * d + start;
    payload += row * row_bytes, bad += row;
    const auto put = [=](int e, Real old, Real q) {
        if constexpr (!ADVANCE) {
            __stcs(out + at + e, q);
        } else {
            if (out) __stcs(out + at + e, add(old, q));
            u[at + e] = add(old, mul(eta, q));
        }
    };
    if (d - start >= TILE) {
        Real old[LANES] = {};
        if (ADVANCE) {
#pragma unroll
            for (int r = 0; r < LANES; r++) old[r] = u[at + LANES * r + lane_of()];
        }
        decode_tile<Real, WIDTH, true>(payload, start, d, block, top, gain, bad, [&](int r, int e, Real q) { put(e, old[r], q); });
    } else {
        decode_tile<Real, WIDTH, false>(payload, start, d, block, top, gain, bad,
                                        [&](int, int e, Real q) { put(e, ADVANCE ? u[at + e] : (Real)0, q); });
    }
}

enum { ROOM = 1 << 15 }; /* bytes of shared memory that a block of `quantize_mix` takes */

/* û = u + q, or q where u is null, and u ← u + η q, with q = gain C of every row (rows, d); then of the first n of them
 *     out[i] = Σ_a w_a (û[i] − û[head[a]]) over a = ptr[i] to ptr[i + 1], in this order; w_a = weights[a] (null: 1)
 * A block serves `group` rows of one tile, of all messages, and keeps their û. */
template <typename Real, int WIDTH>
KERNEL quantize_mix(const u8 *payload, Real *u, Real eta, const i64 *ptr, const i64 *head, const Real *weights, Real *out,
                    i64 rows, i64 n, i64 d, i64 block, i64 row_bytes, int group, int top, Real gain, int *bad) {
    __shared__ Real estimate[ROOM / sizeof(Real)];
    const int lane = lane_of();
    const i64 first = (i64)blockIdx.x * group * LANES, start = first / TILE * TILE, left = d - start;
    const i64 bytes = ceil_div(left * WIDTH, 8), before = 4 * ceil_div(d, block) + start / LANES * 4 * WIDTH;
    const Real half = (Real)top / 2;
    for (int pair = warp_of(); pair < rows * group; pair += WARPS) { /* a message, and a row of the tile */
        const i64 row = pair / group, begin = first + pair % group * LANES, e = begin + lane;
        if (begin >= d) continue;
        const int r = (int)(begin - start) / LANES;
        const u8 *message = payload + row * row_bytes, *codes = message + before;
        u32 code;
        if (left >= TILE) {
            const int shift = r * WIDTH % 32;
            const u8 *from = codes + 4 * (r * WIDTH / 32 * LANES + lane);
            code = load_word(from) >> shift;
            if (shift + WIDTH > 32) code |= load_word(from + 4 * LANES) << (32 - shift);
            code &= (1u << WIDTH) - 1;
        } else {
            const i64 from = 4 * (WIDTH * r + lane);
            code = unpack_row<WIDTH>(lane < WIDTH ? load_word(codes + from, bytes - from) : 0);
        }
        const float scale = __uint_as_float(load_word(message + 4 * (begin / block)));
        if (!is_scale(scale)) bad[row] = 1;
        Real q = mul(sub((Real)(code < (u32)top ? (int)code : top), half), mul(divide((Real)scale, half), gain));
        if (u && e < d) {
            const Real old = u[row * d + e];
            u[row * d + e] = add(old, mul(eta, q));
            q = add(old, q);
        }
        estimate[LANES * pair + lane] = q;
    }
    __syncthreads();
    for (int pair = warp_of(); pair < n * group; pair += WARPS) {
        const i64 i = pair / group, e = first + pair % group * LANES + lane;
        if (e >= d) continue;
        const Real here = estimate[LANES * pair + lane];
        Real sum = 0;
        for (i64 a = ptr[i]; a < ptr[i + 1]; a++) {
            const Real term = sub(here, estimate[LANES * (head[a] * group + pair % group) + lane]);
            sum = add(sum, weights ? mul(weights[a], term) : term);
        }
        __stcs(out + i * d + e, sum);
    }
}
