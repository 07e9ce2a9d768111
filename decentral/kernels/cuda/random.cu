/* Words and half-words of `Key` (random.py), for those who draw on the device. */
#include "tile.cuh"

/* out (rows, count): word e is word e mod 4 of block e div 4. A thread makes a block of four. */
KERNEL words(u64 seed, u32 round, u32 tag, const i64 *ids, u32 *out, i64 rows, i64 count) {
    const i64 blocks = ceil_div(count, 4), t = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 row = t / blocks, e = (t - row * blocks) * 4;
    if (row >= rows) return;
    u32 w[4];
    philox(Key{seed, round, tag}, (u32)ids[row], (u32)(e / 4), w);
    for (int j = 0; j < 4; j++)
        if (e + j < count) out[row * count + e + j] = w[j];
}

/* out (rows, count): element 256 g + 32 r + l (r < 8) is half-word r of block 32 g + l. A thread makes a column of eight. */
KERNEL halves(u64 seed, u32 round, u32 tag, const i64 *ids, u16 *out, i64 rows, i64 count) {
    const i64 columns = ceil_div(count, 8 * LANES) * LANES, t = (i64)blockIdx.x * THREADS + threadIdx.x;
    const i64 row = t / columns, index = t - row * columns, e = index / LANES * 8 * LANES + index % LANES;
    if (row >= rows) return;
    u32 w[4];
    philox(Key{seed, round, tag}, (u32)ids[row], (u32)index, w);
#pragma unroll
    for (int r = 0; r < 8; r++)
        if (e + LANES * r < count) out[row * count + e + LANES * r] = (u16)(w[r / 2] >> 16 * (r % 2));
}
