/* One bit an entry and one scale a row: compressors/sign.py. Bits are a stream in the order of the entries. */
#include "tile.cuh"

/* Signs of v (rows, d), or of v − u where u is not null, and the norms of parts from which `finish_scales` makes the scale; parts = ceil(d/8192), a thread
 * block serves one. norm is HALF_LARGEST or MEAN. */
template <typename Real>
KERNEL sign_encode(const Real *v, const Real *u, u8 *payload, double *largest, double *sums, i64 d, i64 parts, i64 row_bytes,
                   int norm) {
    const i64 row = blockIdx.x / parts, part = blockIdx.x - row * parts, start = (part * WARPS + warp_of()) * TILE;
    const int tiles = least(WARPS, ceil_div(d, TILE) - part * WARPS), lane = lane_of();
    typename Magnitude<Real>::type most = 0;
    double sum = 0;
    u32 word = 0;
    v += row * d, u += u ? row * d : 0;
#pragma unroll
    for (int r = 0; r < LANES; r++) {
        const i64 e = start + LANES * r + lane;
        Real x = e < d ? __ldcs(v + e) : (Real)0;
        if (u && e < d) x = sub(x, __ldcs(u + e));
        const u32 signs = __ballot_sync(ALL, e < d && x >= 0);
        if (lane == r) word = signs;
        most = magnitude(x) > most ? magnitude(x) : most;
        if (norm == MEAN) sum = add(sum, from_magnitude(magnitude(x)));
    }
    const i64 to = start / 8 + 4 * lane;
    store_word(payload + row * row_bytes + 4 + to, word, ceil_div(d, 8) - to);
    store_part(most, sum, tiles, largest, sums, norm);
}

/* out (rows, d) = ± the scale */
template <typename Real> KERNEL sign_decode(const u8 *payload, Real *out, i64 rows, i64 d, i64 row_bytes, int *bad) {
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const i64 start = tile * TILE, from = start / 8 + 4 * lane_of();
    payload += row * row_bytes;
    const float scale = __uint_as_float(load_word(payload));
    if (!is_scale(scale)) bad[row] = 1;
    const u32 word = load_word(payload + 4 + from, ceil_div(d, 8) - from);
    out += row * d;
#pragma unroll
    for (int r = 0; r < LANES; r++) {
        const i64 e = start + LANES * r + lane_of();
        const u32 signs = __shfl_sync(ALL, word, r);
        if (e < d) __stcs(out + e, signs >> lane_of() & 1 ? (Real)scale : (Real)-scale);
    }
}
