/* Sums over a neighborhood, in arc order; a thread owns one entry of one agent.
 *
 * ptr (n + 1,): the arcs of agent i are ptr[i] to ptr[i + 1]. out (n, d).
 */
#include "tile.cuh"

/* out[i] = Σ_a z[a], z (m, d) */
template <typename Real> KERNEL total(const Real *z, const i64 *ptr, Real *out, i64 n, i64 d) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, i = t / d, k = t - i * d;
    if (i >= n) return;
    const i64 first = ptr[i], last = ptr[i + 1];
    Real sum = first < last ? __ldcs(z + first * d + k) : (Real)0;
    for (i64 a = first + 1; a < last; a++) sum = add(sum, __ldcs(z + a * d + k));
    out[t] = sum;
}

/* out[i] = Σ_a w_a (x[i] − x[head[a]]), x (known rows, d), the own rows first; weights (m,) or null for ones */
template <typename Real>
KERNEL disagreement(const Real *x, const i64 *ptr, const i64 *head, const Real *weights, Real *out, i64 n, i64 d) {
    const i64 t = (i64)blockIdx.x * THREADS + threadIdx.x, i = t / d, k = t - i * d;
    if (i >= n) return;
    const Real here = x[t];
    Real sum = 0;
    for (i64 a = ptr[i]; a < ptr[i + 1]; a++) {
        const Real term = sub(here, x[head[a] * d + k]);
        sum = add(sum, weights ? mul(weights[a], term) : term);
    }
    out[t] = sum;
}
