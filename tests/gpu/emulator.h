/* Runs CUDA kernels on a CPU, to test what they compute and nothing about their speed.
 *
 * A thread of a block is a fiber; blocks run one after the other. A fiber gives way at each collective (shuffle, ballot,
 * reduction, barrier) until all lanes of its warp, or all threads of its block, have come there. What is undefined on a
 * device is an error here: lanes of a warp at different collectives, a mask that is not the whole warp, a collective that
 * some lanes have left behind for good. `backward` runs the threads in the opposite order: results that change with it
 * come from a race. Only what decentral's kernels use is here.
 */
#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned x;
};

extern "C" {
inline bool emulator_backward = false;
}

namespace emulator {

enum { WARP = 32, STACK = 1 << 16 };

struct Meeting { /* where fibers wait for each other; two rounds of values, as one may be a round ahead of another */
    int expected = 0, come = 0;
    unsigned round = 0;
    const char *what = nullptr;
    uint64_t values[2][WARP];
};

struct Fiber {
    void *stack = nullptr; /* none: not yet alive */
    jmp_buf jump;
    bool done;
    Meeting *at; /* whose round it waits for, or null */
    unsigned round;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Meeting> warps;
    Meeting barrier;
    jmp_buf scheduler;
    void (*body)(void *) = nullptr;
    void *arguments = nullptr;
    int current = 0;
};

inline Block block;
inline Index thread_index, block_index, block_size;

[[noreturn]] inline void fail(const char *what, const char *other = "") {
    std::fprintf(stderr, "emulator: block %u, thread %u: %s %s\n", block_index.x, thread_index.x, what, other);
    std::abort();
}

inline void give_way() { /* to the scheduler */
    if (!_setjmp(block.fibers[block.current].jump)) _longjmp(block.scheduler, 1);
}

inline void live() { /* of a fiber: a thread of every block */
    for (;;) {
        block.body(block.arguments);
        block.fibers[block.current].done = true;
        give_way();
    }
}

/* Wait here until all have come; the round's number, by whose parity the values are kept. */
inline unsigned meet(Meeting &m, const char *what, int place, uint64_t value) {
    const unsigned round = m.round;
    if (m.come && std::strcmp(m.what, what)) fail("a warp is at two collectives:", what);
    m.what = what, m.values[round % 2][place] = value;
    if (++m.come == m.expected) m.come = 0, m.round++;
    Fiber &self = block.fibers[block.current];
    while (m.round == round) self.at = &m, self.round = round, give_way();
    return round;
}

template <typename T> const uint64_t *gather(const char *what, unsigned mask, T value) {
    static_assert(sizeof(T) <= 8);
    if (mask != 0xFFFFFFFFu) fail("a part of a warp at", what);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    Meeting &warp = block.warps[thread_index.x / WARP];
    return warp.values[meet(warp, what, thread_index.x % WARP, bits) % 2];
}

template <typename T> T read(const uint64_t *values, int lane) {
    T value;
    std::memcpy(&value, values + lane, sizeof value);
    return value;
}

inline bool waits(const Fiber &f) { return f.at && f.at->round == f.round; }

inline void resume(Fiber &f) { /* until it gives way or is done */
    if (_setjmp(block.scheduler)) return;
    if (f.stack) _longjmp(f.jump, 1);
    static ucontext_t context;
    getcontext(&context);
    f.stack = std::malloc(STACK);
    context.uc_stack.ss_sp = f.stack, context.uc_stack.ss_size = STACK, context.uc_link = nullptr;
    makecontext(&context, live, 0);
    setcontext(&context);
}

inline void run_block(int threads) {
    if (threads % WARP) fail("a part of a warp was launched");
    if (static_cast<int>(block.fibers.size()) < threads) block.fibers.resize(threads);
    block.warps.assign(threads / WARP, Meeting());
    block.barrier = Meeting();
    block.barrier.expected = threads;
    for (Meeting &warp : block.warps) warp.expected = WARP;
    for (Fiber &f : block.fibers) f.done = false, f.at = nullptr;
    for (bool left = true; left;) {
        bool moved = false;
        left = false;
        for (int i = 0; i < threads; i++) {
            block.current = emulator_backward ? threads - 1 - i : i, thread_index.x = block.current;
            Fiber &f = block.fibers[block.current];
            if (!f.done && !waits(f)) moved = true, resume(f);
            left |= !f.done;
        }
        if (left && !moved) fail("threads wait for others that have left");
    }
}

template <typename... A> struct Launch {
    void (*kernel)(A...);
    void **values;
    template <std::size_t... I> void call(std::index_sequence<I...>) { kernel(*static_cast<A *>(values[I])...); }
    static void body(void *self) { static_cast<Launch *>(self)->call(std::index_sequence_for<A...>()); }
};

/* Blocks first to last − 1. As cuLaunchKernel it takes pointers to the arguments, and it checks their sizes: 0, or the number
 * of the wrong argument. */
template <typename... A>
int launch(void (*kernel)(A...), long long first, long long last, int threads, void **values, const int *sizes, int count) {
    const int expected[] = {static_cast<int>(sizeof(A))...};
    for (std::size_t i = 0; i < sizeof...(A); i++)
        if (static_cast<int>(i) >= count || sizes[i] != expected[i]) return static_cast<int>(i) + 1;
    if (count > static_cast<int>(sizeof...(A))) return count;
    Launch<A...> with = {kernel, values};
    block.body = Launch<A...>::body, block.arguments = &with;
    block_size.x = threads;
    for (long long b = first; b < last; b++) block_index.x = b, run_block(threads);
    return 0;
}

} // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size

inline void __syncthreads() { emulator::meet(emulator::block.barrier, "__syncthreads", 0, 0); }

template <typename T> T __shfl_sync(unsigned mask, T value, int lane) {
    return emulator::read<T>(emulator::gather("__shfl_sync", mask, value), lane & 31);
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int flip) {
    const int lane = threadIdx.x % 32;
    return emulator::read<T>(emulator::gather("__shfl_xor_sync", mask, value), lane ^ flip);
}

inline unsigned __ballot_sync(unsigned mask, int truth) {
    const uint64_t *values = emulator::gather("__ballot_sync", mask, truth);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= static_cast<unsigned>(emulator::read<int>(values, i) != 0) << i;
    return bits;
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    const uint64_t *values = emulator::gather("__reduce_max_sync", mask, value);
    unsigned most = 0;
    for (int i = 0; i < 32; i++) most = std::max(most, emulator::read<unsigned>(values, i));
    return most;
}

inline unsigned atomicAdd(unsigned *to, unsigned value) { return (*to += value) - value; }
inline unsigned atomicMax(unsigned *to, unsigned value) { const unsigned old = *to; return *to = std::max(old, value), old; }
inline unsigned atomicOr(unsigned *to, unsigned value) { const unsigned old = *to; return *to |= value, old; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::max;
using std::min;
template <typename T> T __ldcs(const T *p) { return *p; }
template <typename T> void __stcs(T *p, T value) { *p = value; }

/* Compiled with -ffp-contract=off: one rounding each. */
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline int __double2int_rd(double a) { /* saturates; 0 for NaN */
    a = std::floor(a);
    return std::isnan(a) ? 0 : a >= 0x1p31 ? INT32_MAX : a < -0x1p31 ? INT32_MIN : static_cast<int>(a);
}
inline int __float2int_rd(float a) { return __double2int_rd(a); }
inline float __double2float_ru(double a) {
    const float s = static_cast<float>(a);
    return s < a ? std::nextafter(s, INFINITY) : s;
}

template <typename To, typename From> To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return bits_as<double>(x); }
