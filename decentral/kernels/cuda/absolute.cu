/* Rounding to a fixed grid: compressors/absolute.py. A row is its codes of `width` bits in tiles, and no scales. */
#include "tile.cuh"

/* Codes of one bit stream: a lane of a full tile, or the rest of a row. */
struct Stream {
    i64 entry, count, word; /* its first entry, how many, its first word */
    int stride;             /* from an entry to the next, and from a word to the next */

    INLINE Stream(i64 tile, int lane, i64 d, int width) {
        const bool full = (tile + 1) * TILE <= d;
        if (!full) lane = 0;
        entry = tile * TILE + lane, count = full ? LANES : d - tile * TILE;
        word = tile * LANES * width + lane, stride = full ? LANES : 1;
    }
};

/* v (rows, d) to payload (rows, row_bytes); a thread makes a word. `beyond` is more than the range. A row with an entry that
 * is not finite is bad. */
template <typename Real>
KERNEL absolute_encode(u64 seed, u32 round, u32 tag, const i64 *ids, const Real *v, u8 *payload, Real step, Real beyond, i64 rows,
                       i64 d, i64 row_bytes, int top, int width, int dithered, int *bad) {
    const i64 words = ceil_div(row_bytes, 4), t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / words, word = t - row * words;
    if (row >= rows) return;
    const Stream s(word / (LANES * width), (int)(word % LANES), d, width);
    const i64 first = (word - s.word) / s.stride * 32;
    const Key key = {seed, round, tag};
    const Real offset = add((Real)(top % 2) / 2, dithered ? (Real)0x1p-17 : (Real)0.5); /* exact */
    u32 packed = 0, random[4] = {0, 0, 0, 0};
    i64 drawn = -1; /* the block of half-words that `random` is */
    for (i64 i = first / width; i < s.count && i * width < first + 32; i++) {
        const i64 e = s.entry + i * s.stride, block = e / (8 * LANES) * LANES + e % LANES;
        const int half = (int)(e / LANES % 8), shift = (int)(i * width - first);
        if (dithered && block != drawn) philox(key, (u32)ids[row], (u32)block, random), drawn = block;
        Real x = v[row * d + e];
        if (!finite(magnitude(x))) bad[row] = 1;
        x = x > beyond ? beyond : x < -beyond ? -beyond : x;
        const Real u = mul_add((Real)(int)(random[half / 2] >> 16 * (half % 2) & 0xFFFF), (Real)0x1p-16, offset);
        const u32 code = (u32)max(0, min(round_down(add(divide(x, step), u)) + top / 2, top));
        packed |= shift < 0 ? code >> -shift : code << shift;
    }
    store_word(payload + row * row_bytes + 4 * word, packed, row_bytes - 4 * word);
}

/* The inverse; a thread makes an entry. A row with a code above `top` is bad. */
template <typename Real>
KERNEL absolute_decode(const u8 *payload, Real *out, Real step, i64 rows, i64 d, i64 row_bytes, int top, int width, int *bad) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / d, e = t - row * d;
    if (row >= rows) return;
    payload += row * row_bytes;
    const Stream s(e / TILE, (int)(e % LANES), d, width);
    const i64 bit = (e - s.entry) / s.stride * width, at = 4 * (s.word + bit / 32 * s.stride), next = at + 4 * s.stride;
    u64 bits = load_word(payload + at, row_bytes - at);
    if (bit % 32 + width > 32) bits |= (u64)load_word(payload + next, row_bytes - next) << 32;
    const int code = (int)(bits >> bit % 32 & ((1u << width) - 1));
    if (code > top) bad[row] = 1;
    out[t] = mul(sub((Real)code, (Real)top / 2), step);
}
