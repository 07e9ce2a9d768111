/* The k entries of largest magnitude of every row of v, or of v − u where u is not null, ties to the smallest place,
 * in the order of places: exact, whatever sample and guess say, and the same on any grid.
 *
 *   sample    a lower threshold for each row: guessed, or from up to 8192 of its entries (all of a short row: then it is exact)
 *   filter    reads v once; the entries of a tile at or above the threshold go to its slots
 *   scan      k entries are above the threshold and some of those at it: settled. Fewer: the slots are of no use
 *   digits, pick   else radix selection among the survivors, 11 bits of the magnitude at a time
 *   count, scan    where the kept entries of each tile go
 *   write
 *
 * A tile with more survivors than slots is read from v again where the others are read from their slots: so are all
 * tiles of a row whose threshold was too high. A row of constants or mostly zeros settles at once and is read twice.
 * Decisions stay on the device, kernels that are not needed return.
 *
 * What methods send changes slowly: where the search of a row's last call is given, no sample is read. With t and s the
 * thresholds of the last call and of the one before, the guess is (1 − 2^−(3 + fit)) t min(1, t/s), so that rows which shrink
 * by a factor a call are followed. `fit` moves by one where few more than k entries pass, or so many that slots may not hold
 * them: error feedback leaves many entries just below t. A guess fails where fewer than k pass (REREAD), or more than three
 * quarters of the slots hold. Then v is read five times more, or eight with float64; so the row is sampled for PAUSE calls,
 * and one for which no guess holds loses a tenth of a read a call. Short rows are not guessed.
 *
 * Per row: search (rows,), kept from call to call. Per tile (rows, tiles): above, ties, what is above the key of the search and
 * equal to it, and above_before, ties_before, their sums over earlier tiles. Slots (rows, tiles, capacity): value, place in the
 * tile.
 */
#include "tile.cuh"
#include "places.cu"

enum { DIGIT = 11, BINS = 1 << DIGIT, SAMPLES = 32 * THREADS, PAUSE = 64 };
enum State { SEARCHING = 0, SETTLED = 1, REREAD = 2 }; /* REREAD: searching, but the slots miss entries */

struct Search { /* zeros before the first call */
    u64 key;  /* of the threshold: its leading digits while searching */
    i64 rank; /* the threshold is the rank-th largest of those that begin with `key`; when settled, ties that are kept */
    i64 state;
    u64 last;  /* the key of the last call */
    i64 fit;   /* −2 to 7: how near to the expected threshold a guess is */
    i64 pause; /* calls for which the row is sampled; PAUSE in one that guesses, until the guess has held */
};

/* bins[bin] += 1 from every lane that has one; many lanes may have the same. */
INLINE void tally(u32 *bins, bool has, int bin) {
    const u32 having = __ballot_sync(ALL, has);
    if (!having) return;
    const int leader = __ffs((int)having) - 1;
    const int first = __shfl_sync(ALL, bin, leader);
    if (__ballot_sync(ALL, has && bin != first)) {
        if (has) atomicAdd(bins + bin, 1u);
    } else if (lane_of() == leader) {
        atomicAdd(bins + bin, (u32)__popc(having));
    }
}

/* The bin that holds the rank-th largest, and the rank within it; one warp. */
INLINE int find_bin(const u32 *bins, i64 *rank) {
    const int lane = lane_of();
    i64 own = 0, above = 0; /* lane 0 has the highest bins */
    for (int i = 0; i < BINS / LANES; i++) own += bins[BINS - 1 - (lane * (BINS / LANES) + i)];
    for (int from = 0; from < LANES; from++) {
        const i64 other = __shfl_sync(ALL, own, from);
        if (from < lane) above += other;
    }
    int found = 0;
    const bool here = above < *rank && *rank <= above + own;
    i64 left = *rank - above;
    if (here)
        for (int i = 0; i < BINS / LANES; i++) {
            found = BINS - 1 - (lane * (BINS / LANES) + i);
            if (left <= bins[found]) break;
            left -= bins[found];
        }
    const int at = __ffs((int)__ballot_sync(ALL, here)) - 1;
    *rank = __shfl_sync(ALL, left, at);
    return __shfl_sync(ALL, found, at);
}

/* Somewhat below the threshold that is likely after `before` and `last`; 0 where they say nothing. */
template <typename Real> INLINE typename Magnitude<Real>::type guess(u64 before, u64 last, i64 fit) {
    typedef typename Magnitude<Real>::type Bits;
    if (!before || !finite((Bits)last)) return 0;
    const double t = from_magnitude((Bits)last), ratio = t / from_magnitude((Bits)before);
    return magnitude((Real)((1 - 0.5 / (1 << (fit + 2))) * t * (ratio < 1 ? ratio : 1)));
}

/* search.key = a guess, or the rank-th largest of `count` entries spread over the row, count = min(d, SAMPLES); 0 for
 * rank = 0. A thread block serves one row. */
template <typename Real> KERNEL top_k_sample(const Real *v, const Real *u, Search *search, i64 d, i64 rank) {
    typedef typename Magnitude<Real>::type Bits;
    __shared__ u32 bins[BINS];
    __shared__ i64 left;
    __shared__ u64 prefix;
    const i64 count = d < SAMPLES ? d : SAMPLES;
    const i64 first = blockIdx.x * d;
    Search &s = search[blockIdx.x];
    const u64 last = s.key;
    const Bits guessed = s.pause ? 0 : guess<Real>(s.last, last, s.fit);
    __syncthreads(); /* all have read */
    if (threadIdx.x == 0) s.last = last, s.pause = guessed ? PAUSE : s.pause > 0 ? s.pause - 1 : 0;
    if (guessed) {
        if (threadIdx.x == 0) s.key = guessed;
        return;
    }
    Bits sample[SAMPLES / THREADS];
#pragma unroll
    for (int i = 0; i < SAMPLES / THREADS; i++) {
        const i64 e = i * THREADS + threadIdx.x;
        const i64 at = first + (d < SAMPLES ? e : e * (d / SAMPLES));
        sample[i] = e < count ? magnitude(u ? sub(v[at], u[at]) : v[at]) : 0;
    }
    if (threadIdx.x == 0) left = rank, prefix = 0;
    for (int before = Magnitude<Real>::BITS; rank && before;) {
        const int shift = before > DIGIT ? before - DIGIT : 0;
        for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SAMPLES / THREADS; i++) {
            if (i * THREADS >= count) break;
            const bool has = i * THREADS + threadIdx.x < count && sample[i] >> before == (Bits)prefix >> before;
            tally(bins, has, (int)(sample[i] >> shift & ((1 << (before - shift)) - 1)));
        }
        __syncthreads();
        if (warp_of() == 0) {
            i64 r = left;
            const int bin = find_bin(bins, &r);
            if (threadIdx.x == 0) left = r, prefix |= (u64)bin << shift;
        }
        __syncthreads();
        before = shift;
    }
    if (threadIdx.x == 0) s.key = rank ? prefix : 0;
}

/* Slots, and counts against search.key. A row with an entry that is not finite is bad. */
template <typename Real>
KERNEL top_k_filter(const Real *v, const Real *u, const Search *search, Real *slots, u16 *places, u32 *above, u32 *ties, i64 rows,
                    i64 d, int capacity, int *bad) {
    typedef typename Magnitude<Real>::type Bits;
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const int n = least(TILE, d - tile * TILE), lane = lane_of();
    const i64 t = row * ceil_div(d, TILE) + tile;
    const Bits key = (Bits)search[row].key;
    Real x[LANES];
    const i64 at = row * d + tile * TILE + lane;
#pragma unroll
    for (int r = 0; r < LANES; r++) x[r] = LANES * r + lane < n ? __ldcs(v + at + LANES * r) : (Real)0;
    if (u) {
#pragma unroll
        for (int r = 0; r < LANES; r++) x[r] = sub(x[r], LANES * r + lane < n ? __ldcs(u + at + LANES * r) : (Real)0);
    }
    u32 survivors = 0, larger = 0;
    Bits most = 0;
#pragma unroll
    for (int r = 0; r < LANES; r++) {
        const Bits m = magnitude(x[r]);
        const int e = LANES * r + lane;
        const u32 passed = __ballot_sync(ALL, e < n && m >= key);
        most = m > most ? m : most;
        if (!passed) continue;
        const u32 to = survivors + __popc(passed & ((1u << lane) - 1));
        if (passed >> lane & 1 && to < (u32)capacity) slots[t * capacity + to] = x[r], places[t * capacity + to] = (u16)e;
        survivors += __popc(passed);
        larger += __popc(__ballot_sync(ALL, e < n && m > key));
    }
    if (!finite(most)) bad[row] = 1;
    if (lane == 0) above[t] = larger, ties[t] = survivors - larger;
}

/* Sums over earlier tiles; with `first` it decides what the counts of the filter mean, and whether a guess held: k to `room`
 * entries passed. Else it serves rows that were still searching. A thread block serves a row. */
__global__ void __launch_bounds__(SCANNERS)
    top_k_scan(Search *search, const u32 *above, const u32 *ties, i64 *above_before, i64 *ties_before, i64 tiles, i64 k, i64 room,
               int first) {
    const i64 row = blockIdx.x, at = row * tiles;
    Search &s = search[row];
    if (!first && s.state == SETTLED) return;
    const i64 all_above = sums_before(above + at, above_before + at, tiles);
    const i64 all_ties = sums_before(ties + at, ties_before + at, tiles);
    if (!first || threadIdx.x) return;
    s.state = all_above >= k ? SEARCHING : all_above + all_ties < k ? REREAD : SETTLED;
    if (s.pause == PAUSE) {
        const i64 passed = all_above + all_ties, spare = room - k;
        if (passed >= k && passed <= room) s.pause = 0;
        if (passed > k + spare / 2 && s.fit < 7) s.fit++;
        if (passed < k + spare / 8 && s.fit > -2) s.fit--;
    }
    if (s.state == SETTLED) s.rank = k - all_above;
    else s.rank = k, s.key = 0;
}

/* What a tile offers to the search, 32 entries at a time, in order: its slots, or v − u where these do not hold all. */
template <typename Real> struct Offer {
    const Real *from, *minus;
    const u16 *places; /* null: not from slots */
    int count;

    INLINE Offer(const Real *v, const Real *u, const Real *slots, const u16 *in_slots, u32 survivors, i64 row, i64 tile, i64 d,
                 int capacity, bool reread) {
        const i64 t = row * ceil_div(d, TILE) + tile;
        const bool fits = !reread && survivors <= (u32)capacity;
        from = fits ? slots + t * capacity : v + row * d + tile * TILE;
        minus = fits || !u ? 0 : u + row * d + tile * TILE;
        places = fits ? in_slots + t * capacity : 0;
        count = fits ? (int)survivors : least(TILE, d - tile * TILE);
    }
    INLINE bool has(int i) const { return i + lane_of() < count; }
    INLINE Real value(int i) const {
        if (!has(i)) return 0;
        return minus ? sub(from[i + lane_of()], minus[i + lane_of()]) : from[i + lane_of()];
    }
    INLINE int place(int i) const { return places && has(i) ? places[i + lane_of()] : i + lane_of(); }
};

/* bins (rows, BINS) += entries by the bits shift..before − 1, of those whose higher bits are search.key's; `blocks` thread
 * blocks a row. above and ties are the filter's. */
template <typename Real>
KERNEL top_k_digits(const Real *v, const Real *u, const Real *slots, const u16 *places, const Search *search, const u32 *above, const u32 *ties,
                    u32 *bins, i64 d, i64 blocks, int capacity, int before, int shift) {
    typedef typename Magnitude<Real>::type Bits;
    __shared__ u32 own[BINS];
    const i64 row = blockIdx.x / blocks, tiles = ceil_div(d, TILE);
    const Search s = search[row];
    if (s.state == SETTLED) return;
    for (int b = threadIdx.x; b < BINS; b += THREADS) own[b] = 0;
    __syncthreads();
    for (i64 tile = (blockIdx.x - row * blocks) * WARPS + warp_of(); tile < tiles; tile += blocks * WARPS) {
        const i64 t = row * tiles + tile;
        const Offer<Real> offer(v, u, slots, places, above[t] + ties[t], row, tile, d, capacity, s.state == REREAD);
        for (int i = 0; i < offer.count; i += LANES) {
            const Bits m = magnitude(offer.value(i));
            tally(own, offer.has(i) && m >> before == (Bits)s.key >> before, (int)(m >> shift & ((1 << (before - shift)) - 1)));
        }
    }
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += THREADS)
        if (own[b]) atomicAdd(bins + row * BINS + b, own[b]);
}

/* The next digits of the threshold, and bins back to zero. A thread block serves one row. */
KERNEL top_k_pick(Search *search, u32 *bins, int shift) {
    bins += blockIdx.x * BINS;
    Search &s = search[blockIdx.x];
    if (s.state == SETTLED) return;
    if (warp_of() == 0) {
        i64 rank = s.rank;
        const int bin = find_bin(bins, &rank);
        if (threadIdx.x == 0) s.rank = rank, s.key |= (u64)bin << shift;
    }
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
}

/* Counts against the threshold that the search found. The filter's counts are still needed: kept_above, kept_ties. */
template <typename Real>
KERNEL top_k_count(const Real *v, const Real *u, const Real *slots, const u16 *places, const Search *search, const u32 *above, const u32 *ties,
                   u32 *kept_above, u32 *kept_ties, i64 rows, i64 d, int capacity) {
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const Search s = search[row];
    if (s.state == SETTLED) return;
    const i64 t = row * ceil_div(d, TILE) + tile;
    const Offer<Real> offer(v, u, slots, places, above[t] + ties[t], row, tile, d, capacity, s.state == REREAD);
    u32 larger = 0, equal = 0;
    for (int i = 0; i < offer.count; i += LANES) {
        const u64 m = magnitude(offer.value(i));
        larger += __popc(__ballot_sync(ALL, offer.has(i) && m > s.key));
        equal += __popc(__ballot_sync(ALL, offer.has(i) && m == s.key));
    }
    if (lane_of() == 0) kept_above[t] = larger, kept_ties[t] = equal;
}

/* out_values, out_places (rows, k) */
template <typename Real>
KERNEL top_k_write(const Real *v, const Real *u, const Real *slots, const u16 *places, const Search *search, const u32 *above, const u32 *ties,
                   const i64 *above_before, const i64 *ties_before, Real *out_values, i64 *out_places, i64 rows, i64 d, i64 k,
                   int capacity) {
    i64 row, tile;
    if (!own_tile(rows, ceil_div(d, TILE), &row, &tile)) return;
    const Search s = search[row];
    const i64 t = row * ceil_div(d, TILE) + tile;
    i64 larger = above_before[t], equal = ties_before[t];
    const Offer<Real> offer(v, u, slots, places, above[t] + ties[t], row, tile, d, capacity, s.state == REREAD);
    const u32 earlier = (1u << lane_of()) - 1;
    for (int i = 0; i < offer.count; i += LANES) {
        const Real x = offer.value(i);
        const u64 m = magnitude(x);
        const u32 is_larger = __ballot_sync(ALL, offer.has(i) && m > s.key);
        const u32 is_equal = __ballot_sync(ALL, offer.has(i) && m == s.key);
        if (!(is_larger | is_equal)) continue;
        const i64 ties_here = equal + __popc(is_equal & earlier);
        const bool kept = is_larger >> lane_of() & 1 || (is_equal >> lane_of() & 1 && ties_here < s.rank);
        if (kept) {
            const i64 to = row * k + larger + __popc(is_larger & earlier) + (ties_here < s.rank ? ties_here : s.rank);
            out_values[to] = x;
            out_places[to] = tile * TILE + offer.place(i);
        }
        larger += __popc(is_larger), equal += __popc(is_equal);
    }
}
