/* Scales of blocks that are longer than a tile, or not in step with it, in two kernels: norms of parts, then the scales.
 *
 * A part is eight tiles of a block, tiles counted from the first entry of the block: parts = ceil(block/8192). Norms of
 * parts: largest, sums (rows, scales, parts) float64; the sums only where the norm needs them.
 */
#include "tile.cuh"

INLINE bool needs_sum(int norm) { return norm == TWO_NORM || norm == MEAN; }

/* The norms of a part from those of its tiles, one in each of the first `tiles` warps; all threads of a block call it. */
template <typename Bits> INLINE void store_part(Bits most, double sum, int tiles, double *largest, double *sums, int norm) {
    __shared__ double of_tiles[WARPS], sum_of_tiles[WARPS];
    most = warp_max(most);
    if (needs_sum(norm)) sum = warp_sum(sum);
    if (lane_of() == 0) of_tiles[warp_of()] = from_magnitude(most), sum_of_tiles[warp_of()] = sum;
    pair_sums(sum_of_tiles, tiles);
    if (threadIdx.x) return;
    u64 m = 0;
    for (int t = 0; t < tiles; t++) m = magnitude(of_tiles[t]) > m ? magnitude(of_tiles[t]) : m;
    largest[blockIdx.x] = from_magnitude(m);
    if (needs_sum(norm)) sums[blockIdx.x] = sum_of_tiles[0];
}

/* Of v, or of v − u where u is not null; a thread block serves one part. norm is LARGEST or TWO_NORM. */
template <typename Real>
KERNEL part_norms(const Real *v, const Real *u, double *largest, double *sums, i64 d, i64 block, i64 parts, int norm) {
    const i64 scales = ceil_div(d, block), scale = blockIdx.x / parts, part = blockIdx.x - scale * parts, row = scale / scales;
    const i64 begin = (scale - row * scales) * block, end = begin + block < d ? begin + block : d;
    const int tiles = least(WARPS, ceil_div(end - begin, TILE) - part * WARPS);
    const i64 start = begin + (part * WARPS + warp_of()) * TILE;
    typename Magnitude<Real>::type most = 0;
    double squares = 0;
#pragma unroll
    for (int r = 0; r < LANES; r++) {
        const i64 e = start + LANES * r + lane_of();
        Real x = e < end ? v[row * d + e] : (Real)0; /* zeros change nothing */
        if (u && e < end) x = sub(x, u[row * d + e]);
        most = magnitude(x) > most ? magnitude(x) : most;
        if (norm == TWO_NORM) squares = add(squares, mul((double)x, (double)x));
    }
    store_part(most, squares, tiles, largest, sums, norm);
}

/* Writes a scale, with `count` the entries that MEAN is of; a thread block serves one block of the rows and overwrites its
 * sums. A row with an entry that is not finite, or with no scale above a norm, is bad. */
KERNEL finish_scales(const double *largest, double *sums, u8 *payload, i64 scales, i64 parts, i64 row_bytes, int norm,
                     double count, int *bad) {
    __shared__ u64 of_warps[WARPS];
    const i64 row = blockIdx.x / scales;
    u64 m = 0;
    for (i64 i = threadIdx.x; i < parts; i += THREADS) {
        const u64 a = magnitude(largest[blockIdx.x * parts + i]);
        m = a > m ? a : m;
    }
    m = warp_max(m);
    if (lane_of() == 0) of_warps[warp_of()] = m;
    sums += blockIdx.x * parts;
    if (needs_sum(norm)) pair_sums(sums, parts);
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < WARPS; w++) m = of_warps[w] > m ? of_warps[w] : m;
    double size = from_magnitude(m);
    if (norm == TWO_NORM) size = fmax(size, __dsqrt_rn(sums[0]));
    if (norm == HALF_LARGEST) size = mul(size, 0.5);
    if (norm == MEAN) size = divide(sums[0], count);
    float scale;
    if (!scale_above(size, &scale)) bad[row] = 1;
    store_word(payload + row * row_bytes + 4 * (blockIdx.x - row * scales), __float_as_uint(scale));
}
