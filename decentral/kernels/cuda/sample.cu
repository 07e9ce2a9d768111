/* k of d places by Floyd's algorithm, those of `sample_batches` (random.py), all of its steps at once.
 *
 * Step e draws t_e, uniform in 0..b + e with b = d − k, and takes it, or its own place b + e where t_e was taken before. It was
 * taken if an earlier step drew it too, or if it is the own place b + f of an earlier step f that took that. So
 *
 *     own(e)  =  t_e = b + e   or   an earlier step drew t_e   or   t_e = b + f and own(f)
 *
 * and a thread follows the steps e, f, ... until it knows. A draw is an own place with probability below k/d, and uniform
 * among the earlier ones: two steps on average for k = d/2, about ln k for k = d.
 *
 * words (rows, k): those of `Key`. first (rows, d), zeros: k − e of the first step e that drew the place, 0 for none.
 */
#include "tile.cuh"

INLINE i64 drawn(u32 word, i64 last) { return (i64)((u64)word * (u64)(last + 1) >> 32); }

KERNEL sample_first(const u32 *words, u32 *first, i64 rows, i64 k, i64 d) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / k, e = t - row * k;
    if (row >= rows) return;
    atomicMax(first + row * d + drawn(words[t], d - k + e), (u32)(k - e));
}

/* bits (rows, ceil(d/32)), zeros: the places as a bitmap. */
KERNEL sample_places(const u32 *words, const u32 *first, u32 *bits, i64 rows, i64 k, i64 d) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, row = t / k, e = t - row * k, b = d - k;
    if (row >= rows) return;
    words += row * k, first += row * d;
    const i64 place = drawn(words[e], b + e);
    i64 f = e, at = place;
    while (b <= at && at < b + f && first[at] == (u32)(k - f)) {
        f = at - b;
        at = drawn(words[f], b + f);
    }
    const bool own = at == b + f || first[at] != (u32)(k - f);
    const i64 taken = own ? b + e : place;
    atomicOr(bits + row * ceil_div(d, 32) + taken / 32, 1u << taken % 32);
}
