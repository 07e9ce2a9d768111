/* The places of k entries among d on the wire: compressors/places.py. Elias-Fano, low >= 0: bits 0..k low − 1 of a row's
 * stream are the `low` lowest bits of each place; of the `highs` = k + ((d − 1) >> low) − 1 bits behind them, those at
 * (place i >> low) + i are 1, and one more is not sent. Bitmap, low < 0: `highs` = d bits, those at the places are 1.
 *
 * A stream begins `offset` bytes into each row of `row_bytes`, and takes words = ceil(bits/32) words, the last one partly.
 */
#include "tile.cuh"

enum { SCANNERS = 1024 };

/* before[t] = counts[0] + ... + counts[t − 1]; returns the sum of all. One thread block of SCANNERS threads, each with
 * consecutive counts. */
INLINE i64 sums_before(const u32 *counts, i64 *before, i64 n) {
    __shared__ i64 sums[SCANNERS];
    const i64 each = ceil_div(n, SCANNERS), begin = threadIdx.x * each, end = begin + each < n ? begin + each : n;
    i64 sum = 0;
    for (i64 t = begin; t < end; t++) sum += counts[t];
    const i64 own = sum;
    for (int stride = 1; stride < SCANNERS; stride *= 2) { /* over threads */
        sums[threadIdx.x] = sum;
        __syncthreads();
        if ((int)threadIdx.x >= stride) sum += sums[threadIdx.x - stride];
        __syncthreads();
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    const i64 all = sums[SCANNERS - 1];
    __syncthreads(); /* before the next call writes */
    sum -= own;
    for (i64 t = begin; t < end; t++) {
        before[t] = sum;
        sum += counts[t];
    }
    return all;
}

struct Code {
    i64 k, start, highs; /* the high bits are start .. start + highs − 1 */
    int low, step;       /* step: the bit of place i stands i further */

    INLINE Code(i64 k, i64 highs, int low)
        : k(k), start(low < 0 ? 0 : k * low), highs(highs), low(low < 0 ? 0 : low), step(low >= 0) {}
    INLINE i64 bytes() const { return ceil_div(start + highs, 8); }
    INLINE i64 words() const { return ceil_div(start + highs, 32); }
    INLINE i64 bit(i64 place, i64 i) const { return (place >> low) + (step ? i : 0); }
};

/* places (rows, k) in increasing order; a thread makes a word. */
KERNEL pack_places(const i64 *places, u8 *out, i64 rows, i64 k, i64 highs, i64 row_bytes, i64 offset, int low) {
    const Code c(k, highs, low);
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / c.words(), first = (t - row * c.words()) * 32;
    if (row >= rows) return;
    places += row * k;
    u32 word = 0;
    if (first < c.start)
        for (i64 i = first / c.low; i < k && i * c.low < first + 32; i++) {
            const u64 bits = (u64)places[i] & ((1ull << c.low) - 1);
            const int shift = (int)(i * c.low - first);
            word |= (u32)(shift < 0 ? bits >> -shift : bits << shift);
        }
    const i64 from = first < c.start ? 0 : first - c.start;
    const i64 to = first + 32 - c.start < highs ? first + 32 - c.start : highs;
    i64 i = 0;
    for (i64 end = to > from ? k : 0; i < end;) { /* the first place whose bit is not before `from` */
        const i64 middle = (i + end) / 2;
        if (c.bit(places[middle], middle) < from) i = middle + 1;
        else end = middle;
    }
    for (; to > from && i < k && c.bit(places[i], i) < to; i++) word |= 1u << (c.start + c.bit(places[i], i) - first);
    store_word(out + row * row_bytes + offset + first / 8, word, c.bytes() - first / 8);
}

/* The high bits in the 32-bit word that begins at bit `first` of a stream. */
INLINE u32 high_bits(const Code &c, const u8 *stream, i64 first) {
    if (first >= c.start + c.highs || first + 32 <= c.start) return 0;
    u32 word = load_word(stream + first / 8, c.bytes() - first / 8);
    if (first < c.start) word &= ALL << (c.start - first);
    if (c.start + c.highs < first + 32) word &= (1u << (c.start + c.highs - first)) - 1;
    return word;
}

/* counts (rows, tiles): ones in each tile of 1024 bits of a stream. */
KERNEL count_places(const u8 *stream, u32 *counts, i64 rows, i64 k, i64 highs, i64 row_bytes, i64 offset, int low) {
    const Code c(k, highs, low);
    const i64 tiles = ceil_div(c.words(), LANES);
    i64 row, tile;
    if (!own_tile(rows, tiles, &row, &tile)) return;
    u32 ones = __popc(high_bits(c, stream + row * row_bytes + offset, tile * TILE + LANES * lane_of()));
    for (int half = LANES / 2; half; half /= 2) ones += __shfl_xor_sync(ALL, ones, half);
    if (lane_of() == 0) counts[row * tiles + tile] = ones;
}

/* Sums over earlier tiles; a row with another number of ones than k is bad. `last` is the place, of index k − 1, whose bit
 * goes without saying: places (rows, k) gets its high part. A thread block serves a row. */
__global__ void __launch_bounds__(SCANNERS)
    scan_places(const u8 *stream, const u32 *counts, i64 *before, i64 *places, i64 k, i64 highs, i64 row_bytes, i64 offset, int low,
                int *bad) {
    const Code c(k, highs, low);
    const i64 row = blockIdx.x, tiles = ceil_div(c.words(), LANES);
    const i64 ones = sums_before(counts + row * tiles, before + row * tiles, tiles);
    if (threadIdx.x) return;
    const bool unsent = c.step && ones == k - 1;
    if (ones != k && !unsent) bad[row] = 1;
    if (!unsent) return;
    const u8 *from = stream + row * row_bytes + offset;
    u64 bits = 0;
    for (int j = 0; j < c.low; j++) bits |= (u64)(from[((k - 1) * c.low + j) / 8] >> ((k - 1) * c.low + j) % 8 & 1) << j;
    places[row * k + k - 1] = (i64)((u64)(highs - (k - 1)) << c.low | bits);
}

/* places (rows, k) of the ones that were sent, a lane for each word. */
KERNEL unpack_places(const u8 *stream, const i64 *before, i64 *places, i64 rows, i64 k, i64 highs, i64 row_bytes, i64 offset,
                     int low) {
    const Code c(k, highs, low);
    const i64 tiles = ceil_div(c.words(), LANES);
    i64 row, tile;
    if (!own_tile(rows, tiles, &row, &tile)) return;
    const u8 *from = stream + row * row_bytes + offset;
    const i64 first = tile * TILE + LANES * lane_of();
    u32 word = high_bits(c, from, first), earlier = __popc(word);
    for (int lanes = 1; lanes < LANES; lanes *= 2) {
        const u32 other = __shfl_sync(ALL, earlier, (lane_of() - lanes) & (LANES - 1));
        if (lane_of() >= lanes) earlier += other;
    }
    i64 i = before[row * tiles + tile] + earlier - __popc(word);
    for (; word && i < k; word &= word - 1, i++) {
        const u64 high = (u64)(first + __ffs((int)word) - 1 - c.start - (c.step ? i : 0));
        const i64 bit = i * c.low, byte = bit / 8;
        u64 bits = load_word(from + byte, c.bytes() - byte); /* `low` and 7 bits more may be two words */
        if (c.low > 25) bits |= (u64)load_word(from + byte + 4, c.bytes() - byte - 4) << 32;
        places[row * k + i] = (i64)(high << c.low | (bits >> bit % 8 & ((1ull << c.low) - 1)));
    }
}

/* Rows whose places do not rise below d are bad. */
KERNEL check_places(const i64 *places, i64 rows, i64 k, i64 d, int *bad) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / k;
    if (row >= rows) return;
    if (places[t] < 0 || places[t] >= d || (t % k && places[t] <= places[t - 1])) bad[row] = 1;
}

/* out (rows, d): values (rows, k) at their places, or added with the factor `step`; places beyond the row are left out. */
template <typename Real, bool ADD>
KERNEL scatter(const i64 *places, const Real *values, Real *out, i64 rows, i64 k, i64 d, Real step) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / k;
    if (row >= rows || places[t] < 0 || places[t] >= d) return;
    Real *to = out + row * d + places[t];
    *to = ADD ? add(*to, mul(step, values[t])) : values[t];
}
