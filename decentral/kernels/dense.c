/* The inner loops of decentral: random words, the quantizer, neighborhood sums, gradients of linear models.
 *
 * Every function has a NumPy twin that gives the same bits (gradients of linear models: the same to rounding), so
 * nothing here may contract, reassociate or approximate: compile with -ffp-contract=off and never with -ffast-math.
 * Arguments are contiguous buffers of a checked type and shape; a wrong one raises ValueError. The GIL is released.
 *
 * The file includes itself twice, with REAL = float and double, for the functions that exist for both.
 */
#ifndef REAL

/* Nobody reads the flags; floor becomes an instruction. Loops that begin anywhere cost the encoder up to 6 %. */
#pragma GCC optimize("no-trapping-math", "align-functions=64", "align-loops=32")
#include "buffers.h"
#include "threads.h"

enum { WIDEST = 17, AT_ONCE = 8, NEAR = 24 << 10 }; /* NEAR: bytes of most of a first cache */
enum { MUCH = 3 << 16, SOME = 1 << 20 }; /* entries that take 0.15 ms or more: to encode; to decode or add */

/* --- Philox4x32-10: up to 32 consecutive counters at a time, word j of counter l in out[j][l] ------------------- */

typedef struct {
    uint32_t round, tag;
    uint32_t k0[10][8], k1[10][8]; /* the key of every round, spread over 64-bit lanes */
} Philox;

static void philox_key(Philox *p, uint64_t seed, uint64_t round, uint64_t tag) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    p->round = (uint32_t)round, p->tag = (uint32_t)tag;
    for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < 8; i++) p->k0[r][i] = k0, p->k1[r][i] = k1;
}

static void philox_plain(const Philox *p, uint32_t id, uint32_t index, int lanes, uint32_t out[4][LANES]) {
    for (int l = 0; l < lanes; l++) {
        uint32_t a = index + (uint32_t)l, b = id, c = p->round, d = p->tag;
        for (int r = 0; r < 10; r++) {
            uint64_t x = (uint64_t)a * 0xD2511F53u, y = (uint64_t)c * 0xCD9E8D57u;
            a = (uint32_t)(y >> 32) ^ b ^ p->k0[r][0], b = (uint32_t)y;
            c = (uint32_t)(x >> 32) ^ d ^ p->k1[r][0], d = (uint32_t)x;
        }
        out[0][l] = a, out[1][l] = b, out[2][l] = c, out[3][l] = d;
    }
}

#ifdef HAVE_AVX2

#define SPREAD(x) _mm256_set1_epi64x((int64_t)(x))
#define LOAD(x) _mm256_loadu_si256((const __m256i *)(x))
#define MUL(x, y) _mm256_mul_epu32(x, y)
#define XOR(x, y) _mm256_xor_si256(x, y)
#define HIGH(x) _mm256_srli_epi64(x, 32)
/* The low (0x88) or high (0xDD) words of eight 64-bit lanes, in the order x0 x1 y0 y1 x2 x3 y2 y3. */
#define BOTH(x, y, words) _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(x), _mm256_castsi256_ps(y), words))
#define STORE(j, x) _mm256_storeu_si256((__m256i *)(out[j] + l), x)

/* What GCC does not find by itself: the multiplier reads the low word of a 64-bit lane and ignores the rest. Before the first
 * round only a differs between counters: of two rounds, what comes of b, c and d alone is known. The last one packs. */
AVX2 static void philox_avx2(const Philox *p, uint32_t id, uint32_t index, int lanes, uint32_t out[4][LANES]) {
    const __m256i m0 = SPREAD(0xD2511F53u), m1 = SPREAD(0xCD9E8D57u), k0 = LOAD(p->k0[9]), k1 = LOAD(p->k1[9]);
    const uint64_t y = (uint64_t)p->round * 0xCD9E8D57u, x = (uint64_t)((uint32_t)(y >> 32) ^ id ^ p->k0[0][0]) * 0xD2511F53u;
    const __m256i c = SPREAD(p->tag ^ p->k1[0][0]), d = SPREAD((uint32_t)x);
    const __m256i ka = SPREAD((uint32_t)y ^ p->k0[1][0]), kc = SPREAD((uint32_t)(x >> 32) ^ p->k1[1][0]);
    for (int l = 0; l < lanes; l += 8) {
        const __m256i a = _mm256_add_epi64(SPREAD((int64_t)index + l), _mm256_set_epi64x(5, 4, 1, 0));
        __m256i x0 = MUL(a, m0), x1 = MUL(_mm256_add_epi64(a, SPREAD(2)), m0);
        __m256i b0 = MUL(XOR(HIGH(x0), c), m1), b1 = MUL(XOR(HIGH(x1), c), m1), d0 = d, d1 = d;
        __m256i a0 = XOR(HIGH(b0), ka), a1 = XOR(HIGH(b1), ka), c0 = XOR(x0, kc), c1 = XOR(x1, kc), y0, y1;
#pragma GCC unroll 8
        for (int r = 2; r < 9; r++) {
            x0 = MUL(a0, m0), y0 = MUL(c0, m1), x1 = MUL(a1, m0), y1 = MUL(c1, m1);
            a0 = XOR(HIGH(y0), XOR(b0, LOAD(p->k0[r]))), b0 = y0;
            c0 = XOR(HIGH(x0), XOR(d0, LOAD(p->k1[r]))), d0 = x0;
            a1 = XOR(HIGH(y1), XOR(b1, LOAD(p->k0[r]))), b1 = y1;
            c1 = XOR(HIGH(x1), XOR(d1, LOAD(p->k1[r]))), d1 = x1;
        }
        x0 = MUL(a0, m0), y0 = MUL(c0, m1), x1 = MUL(a1, m0), y1 = MUL(c1, m1);
        STORE(0, XOR(BOTH(y0, y1, 0xDD), XOR(BOTH(b0, b1, 0x88), k0)));
        STORE(1, BOTH(y0, y1, 0x88));
        STORE(2, XOR(BOTH(x0, x1, 0xDD), XOR(BOTH(d0, d1, 0x88), k1)));
        STORE(3, BOTH(x0, x1, 0x88));
    }
}
#undef SPREAD
#undef LOAD
#undef MUL
#undef XOR
#undef HIGH
#undef BOTH
#undef STORE
#endif

static void (*philox)(const Philox *, uint32_t, uint32_t, int, uint32_t[4][LANES]) = philox_plain;

static void fill_words(const Philox *p, uint32_t id, uint32_t *out, int64_t count) {
    uint32_t w[4][LANES], line[4 * LANES];
    for (int64_t e = 0; e < count; e += 4 * LANES) {
        const int size = count - e < 4 * LANES ? (int)(count - e) : 4 * LANES, lanes = (size + 3) / 4;
        philox(p, id, (uint32_t)(e / 4), lanes, w);
        for (int l = 0; l < lanes; l++)
            for (int j = 0; j < 4; j++) line[4 * l + j] = w[j][l];
        memcpy(out + e, line, sizeof(uint32_t) * (size_t)size);
    }
}

CLONES static void fill_halves(const Philox *p, uint32_t id, uint16_t *out, int64_t count) {
    uint32_t w[4][LANES];
    uint16_t group[8 * LANES];
    for (int64_t e = 0; e < count; e += 8 * LANES) {
        uint16_t *to = count - e < 8 * LANES ? group : out + e;
        philox(p, id, (uint32_t)(e / 8), LANES, w);
        for (int j = 0; j < 4; j++) {
            for (int l = 0; l < LANES; l++) to[64 * j + l] = (uint16_t)w[j][l];
            for (int l = 0; l < LANES; l++) to[64 * j + 32 + l] = (uint16_t)(w[j][l] >> 16);
        }
        if (to == group) memcpy(out + e, group, sizeof(uint16_t) * (size_t)(count - e));
    }
}

/* Floyd's algorithm. `taken` (one bit a sample, all zero, or NULL) replaces the search among earlier picks. */
CLONES static void floyd(const uint32_t *words, int64_t size, int64_t batch, int64_t *picks, uint64_t *taken) {
    for (int64_t e = 0; e < batch; e++) {
        const int64_t last = size - batch + e;
        int64_t t = (int64_t)(((uint64_t)words[e] * (uint64_t)(last + 1)) >> 32);
        if (taken) {
            if (taken[t >> 6] >> (t & 63) & 1) t = last;
            taken[t >> 6] |= (uint64_t)1 << (t & 63);
        } else {
            int64_t found = 0;
            for (int64_t i = 0; i < e; i++) found |= picks[i] == t;
            if (found) t = last;
        }
        picks[e] = t;
    }
    if (taken)
        for (int64_t e = 0; e < batch; e++) taken[picks[e] >> 6] = 0;
}

/* --- The quantizer (its arithmetic and wire format: compressors/quantize.py) ------------------------------------- */

typedef struct {
    int64_t d, block, row_bytes;
    int top, width, two_norm, dithered;
} Grid;

/* What threads share: rows to encode or decode, and the norms of parts of a long row. */
typedef struct {
    const void *v, *minus;
    uint8_t *payload;
    const Grid *g;
    const Philox *key;
    const int64_t *ids;
    char *failed;  /* a row */
    int scaled;    /* the scales are in the payload already */
    void *u, *out; /* to feed back: the reference, which is `minus` then, and where to u + q; or NULL */
    double eta;
} Encoding;

typedef struct {
    const uint8_t *payload;
    void *out, *u;
    const Grid *g;
    double gain, eta;
    int bad;
} Decoding;

typedef struct {
    const void *v, *minus;
    int64_t width;
    int two_norm;
    double largest[LANES], squares[LANES];
} Norms;

/* Sums over a neighborhood, or combinations of rows. */
typedef struct {
    const void *x, *weights;
    const int64_t *ptr, *head;
    void *out;
    int64_t d, together; /* together: the rows, of which some columns are summed at a time; 0 where it goes row by row */
} Sum;

/* Received rows, where they lie, and what is made of them: see `mix`. */
typedef struct {
    const uint8_t **at;
    const Grid *g; /* NULL: plain numbers */
    void *u;
    int64_t rows, own, d;
    double gain, eta;
    const int64_t *ptr, *head;
    const void *weights;
    void *out;
    int failed; /* BAD, FULL */
} Mix;

enum { BAD = 1, FULL = 2, ROOM = 1 << 18 }; /* ROOM: bytes of the columns of all rows at a time, of most of a second cache */
enum { FAR = 1 << 22 }; /* bytes between two rows after which the first is out of the caches, going row by row */

typedef struct {
    double a, b, c;
    const void *y, *w, *x;
    const int64_t *at;
    void *out;
    int64_t d;
} Blend;

/* What the columns of a part are a multiple of: whole tiles and whole blocks, or whole tiles where a row is one block. */
static int64_t unit_of(const Grid *g) {
    int64_t a = TILE, b = g->block;
    if (b >= g->d) return TILE;
    while (b) {
        const int64_t rest = a % b;
        a = b, b = rest;
    }
    return g->block / a * TILE; /* the least common multiple */
}

typedef uint32_t Word __attribute__((aligned(1), may_alias)); /* of a message: anywhere */

/* `size` more bits of every lane after `bit` bits: the first ones of a word are stored, others join them. */
INLINE void put_words(const uint32_t *packed, uint8_t *codes, int bit, int size) {
    const int shift = bit % 32;
    Word *to = (Word *)codes + bit / 32 * LANES;
    if (!shift)
        for (int l = 0; l < LANES; l++) to[l] = packed[l];
    else
        for (int l = 0; l < LANES; l++) to[l] |= packed[l] << shift;
    if (shift + size > 32)
        for (int l = 0; l < LANES; l++) to[LANES + l] = packed[l] >> (32 - shift);
}

/* Asks for the bytes that are needed next, a hint that may point past an array: the processor's own prefetching ends with
 * every page of 4 KiB. */
INLINE void fetch(const void *from, int bytes) {
#pragma GCC unroll 32
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i);
}

/* A little-endian stream of codes, `width` bits each. */
INLINE void pack_stream(const uint32_t *codes, int64_t count, int width, uint8_t *out) {
    if (width == 8) {
        for (int64_t i = 0; i < count; i++) out[i] = (uint8_t)codes[i];
        return;
    }
    uint64_t held = 0;
    int bits = 0;
    int64_t i = 0;
    for (; width < 8 && i + 4 <= count; i += 4) { /* four codes have their places at once: no wait for one after the other */
        const uint32_t four = codes[i] | codes[i + 1] << width | codes[i + 2] << 2 * width | codes[i + 3] << 3 * width;
        held |= (uint64_t)four << bits;
        bits += 4 * width;
        if (bits >= 32) {
            memcpy(out, &held, 4);
            out += 4, held >>= 32, bits -= 32;
        }
    }
    for (; i < count; i++) {
        held |= (uint64_t)codes[i] << bits;
        bits += width;
        if (bits >= 32) {
            memcpy(out, &held, 4);
            out += 4, held >>= 32, bits -= 32;
        }
    }
    memcpy(out, &held, (size_t)((bits + 7) / 8));
}

/* `in` must be readable for four bytes past the stream. */
INLINE void unpack_stream(const uint8_t *in, int64_t count, int width, uint32_t *codes) {
    const uint32_t mask = (1u << width) - 1;
    if (width == 8) {
        for (int64_t i = 0; i < count; i++) codes[i] = in[i];
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, in + (i * width >> 3), 4);
        codes[i] = word >> (i * width & 7) & mask;
    }
}

/* exp(t) to an ulp or two, for t in ±708 and its value there beyond; NaN stays NaN. The Taylor polynomial of degree 13 on
 * ±(ln 2)/2, in products and sums alone: the same in every lane and on every machine. */
INLINE double exponential(double t) {
    t = t > 708 ? 708 : t < -708 ? -708 : t;
    const double shifted = t * 0x1.71547652b82fep0 + 0x1.8p52, n = shifted - 0x1.8p52; /* n in the low bits of `shifted` */
    const double r = (t - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
    double p = 1. / 6227020800;
    p = p * r + 1. / 479001600, p = p * r + 1. / 39916800, p = p * r + 1. / 3628800, p = p * r + 1. / 362880;
    p = p * r + 1. / 40320, p = p * r + 1. / 5040, p = p * r + 1. / 720, p = p * r + 1. / 120;
    p = p * r + 1. / 24, p = p * r + 1. / 6, p = p * r + 1. / 2, p = p * r + 1, p = p * r + 1;
    uint64_t bits, shift;
    memcpy(&bits, &p, 8), memcpy(&shift, &shifted, 8);
    bits += shift << 52;
    memcpy(&p, &bits, 8);
    return p;
}

#define REAL float
#define BITS int32_t
#define FLOOR floorf
#define SUFFIX f32
#include "dense.c"
#undef REAL
#undef BITS
#undef FLOOR
#undef SUFFIX
#define REAL double
#define BITS int64_t
#define FLOOR floor
#define SUFFIX f64
#include "dense.c"
#undef REAL
#undef BITS
#undef FLOOR
#undef SUFFIX

/* --- Python ------------------------------------------------------------------------------------------------------- */

/* seed, round, tag, ids: the four arguments that every drawing function begins with. */
static const int64_t *take_key(Buffers *all, PyObject *const *args, Philox *p, int64_t *rows) {
    uint64_t n[3];
    for (int i = 0; i < 3; i++) {
        n[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (n[i] == (uint64_t)-1 && PyErr_Occurred()) return NULL;
    }
    if (!require(n[1] >> 32 == 0 && n[2] >> 32 == 0, "round and tag are 32-bit words")) return NULL;
    Py_buffer *ids = take(all, args[3], "q", 1, 0);
    if (!ids) return NULL;
    const int64_t *id = ids->buf;
    *rows = ids->shape[0];
    for (int64_t i = 0; i < *rows; i++)
        if (!require(id[i] >= 0 && id[i] >> 32 == 0, "ids are from 0 to 2^32 - 1")) return NULL;
    philox_key(p, n[0], n[1], n[2]);
    return id;
}

/* ptr (n + 1,) that rises from 0 to `end`. */
static int rising(const Py_buffer *ptr, int64_t n, int64_t end) {
    const int64_t *p = ptr->buf;
    if (!require(ptr->shape[0] == n + 1 && p[0] == 0 && p[n] == end, "ptr does not fit the rows")) return 0;
    for (int64_t i = 0; i < n; i++)
        if (!require(p[i] <= p[i + 1], "ptr does not rise")) return 0;
    return 1;
}

#define EACH(b, function, ...)                     \
    Py_BEGIN_ALLOW_THREADS;                        \
    if (is_double(b)) function##_f64(__VA_ARGS__); \
    else function##_f32(__VA_ARGS__);              \
    Py_END_ALLOW_THREADS

/* Where work · d is much, threads share the rows (rows, d). */
#define SHARE(b, function, work, rows, d, context)                                                                    \
    Py_BEGIN_ALLOW_THREADS;                                                                                           \
    share(threads_for((work) * (d), SOME), rows, 0, d, 1, is_double(b) ? function##_f64 : function##_f32, (context)); \
    Py_END_ALLOW_THREADS

FUNCTION(words) {
    BEGIN(5);
    Philox p;
    int64_t rows;
    Py_buffer *out;
    const int64_t *ids = take_key(&all, args, &p, &rows);
    if (!ids) goto end;
    TAKE(out, 4, "I", 2, 1);
    NEED(out->shape[0] == rows, "out and ids differ in rows");
    NEED(out->shape[1] >> 34 == 0, "at most 2^34 words a row");
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < rows; i++)
        fill_words(&p, (uint32_t)ids[i], (uint32_t *)out->buf + i * out->shape[1], out->shape[1]);
    Py_END_ALLOW_THREADS;
    NONE;
    END;
}

FUNCTION(halves) {
    BEGIN(5);
    Philox p;
    int64_t rows;
    Py_buffer *out;
    const int64_t *ids = take_key(&all, args, &p, &rows);
    if (!ids) goto end;
    TAKE(out, 4, "H", 2, 1);
    NEED(out->shape[0] == rows, "out and ids differ in rows");
    NEED(out->shape[1] >> 35 == 0, "at most 2^35 half-words a row");
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < rows; i++)
        fill_halves(&p, (uint32_t)ids[i], (uint16_t *)out->buf + i * out->shape[1], out->shape[1]);
    Py_END_ALLOW_THREADS;
    NONE;
    END;
}

FUNCTION(sample_batches) {
    BEGIN(6);
    Philox p;
    int64_t rows, largest = 0;
    Py_buffer *sizes, *out;
    uint32_t *draws = NULL;
    uint64_t *taken = NULL;
    const int64_t *ids = take_key(&all, args, &p, &rows);
    if (!ids) goto end;
    TAKE(sizes, 4, "q", 1, 0);
    TAKE(out, 5, "q", 2, 1);
    const int64_t *size = sizes->buf, batch = out->shape[1];
    NEED(sizes->shape[0] == rows && out->shape[0] == rows, "sizes, out and ids differ in rows");
    for (int64_t i = 0; i < rows; i++) {
        NEED(size[i] >= batch && size[i] >> 32 == 0, "a batch exceeds its samples, or these 2^32");
        if (size[i] > largest) largest = size[i];
    }
    draws = PyMem_Malloc(sizeof *draws * (size_t)(batch + 1));
    if (batch > 64) taken = PyMem_Calloc((size_t)(largest / 64 + 1), sizeof *taken);
    if (!draws || (batch > 64 && !taken)) {
        PyErr_NoMemory();
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < rows; i++) {
        fill_words(&p, (uint32_t)ids[i], draws, batch);
        floyd(draws, size[i], batch, (int64_t *)out->buf + i * batch, taken);
    }
    Py_END_ALLOW_THREADS;
    NONE;
end:
    PyMem_Free(draws);
    PyMem_Free(taken);
    release(&all);
    return result;
}

FUNCTION(all_finite) { /* (v): is every entry finite? */
    BEGIN(1);
    Py_buffer *v;
    int truth;
    TAKE(v, 0, "fd", 2, 0);
    Py_BEGIN_ALLOW_THREADS;
    truth = is_double(v) ? finite_f64(v->buf, v->len / 8) : finite_f32(v->buf, v->len / 4);
    Py_END_ALLOW_THREADS;
    result = PyBool_FromLong(truth);
    END;
}

FUNCTION(copy_finite) { /* (v, out): out = v, bytes or numbers; was every entry finite? */
    BEGIN(2);
    enum { CHUNK = 1 << 14 }; /* checked while it is in the cache */
    Py_buffer *v, *out;
    int truth = 1;
    TAKE(v, 0, "fdB", 2, 0);
    TAKE(out, 1, "fd", 2, 1);
    NEED(v->len == out->len && v->shape[0] == out->shape[0], "v and out differ in bytes");
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t at = 0; at < out->len; at += CHUNK) {
        const int64_t bytes = out->len - at < CHUNK ? out->len - at : CHUNK;
        char *to = (char *)out->buf + at;
        memcpy(to, (const char *)v->buf + at, (size_t)bytes);
        truth &= is_double(out) ? finite_f64((const double *)to, bytes / 8) : finite_f32((const float *)to, bytes / 4);
    }
    Py_END_ALLOW_THREADS;
    result = PyBool_FromLong(truth);
    END;
}

/* top, width, block, then what the caller adds: checked against d and the bytes of a row. */
static int take_grid(Grid *g, PyObject *const *args, int64_t d, int64_t row_bytes) {
    g->d = d;
    g->top = (int)PyLong_AsLong(args[0]);
    g->width = (int)PyLong_AsLong(args[1]);
    g->block = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) return 0;
    if (!require(g->width >= 1 && g->width <= WIDEST && g->top >= 1 && g->top < 1 << g->width, "top or width")) return 0;
    if (!require(g->block >= 1 && (g->block % LANES == 0 || g->block >= d), "block")) return 0;
    if (!require(d >= 1 && d >> 35 == 0, "from 1 to 2^35 - 1 entries a row")) return 0;
    g->row_bytes = 4 * ceil_div(d, g->block) + d / TILE * 4 * LANES * g->width + ceil_div(d % TILE * g->width, 8);
    return require(g->row_bytes == row_bytes, "bytes of a row");
}

/* begin, end: the columns to serve, cut as threads may cut them; without these arguments, all. */
static int take_columns(int64_t columns[2], PyObject *const *args, Py_ssize_t nargs, const Grid *g) {
    columns[0] = nargs ? PyLong_AsLongLong(args[0]) : 0, columns[1] = nargs ? PyLong_AsLongLong(args[1]) : g->d;
    if (PyErr_Occurred()) return 0;
    const int64_t unit = unit_of(g), begin = columns[0], end = columns[1];
    const int fit = begin >= 0 && begin < end && end <= g->d && begin % unit == 0 && (end % unit == 0 || end == g->d);
    return require(fit, "begin or end");
}

/* The scale of a row that has one, by parts of a power of two of tiles: their sums are those of the tree over the row. */
static int scale_row(const Encoding *e, int64_t row, int of_double, int count) {
    const int64_t d = e->g->d, at = row * d * (of_double ? 8 : 4);
    Norms norms = {(const char *)e->v + at, e->minus ? (const char *)e->minus + at : NULL, PART, e->g->two_norm, {0}, {0}};
    while (norms.width * LANES < d) norms.width *= 2;
    share(count, 1, 0, d, norms.width, of_double ? norms_f64 : norms_f32, &norms);
    double m = 0, partial[LANES];
    int depth = 0;
    for (int64_t i = 0; i * norms.width < d; i++) {
        if (!(norms.largest[i] < INFINITY)) return 0;
        m = fmax(m, norms.largest[i]);
        partial[depth++] = norms.squares[i];
        depth = add_by_pairs(partial, depth, i + 1);
    }
    if (e->g->two_norm) m = fmax(m, sqrt(add_rest(partial, depth)));
    float s;
    if (!scale_above(m, &s)) return 0;
    memcpy(e->payload + row * e->g->row_bytes, &s, 4);
    return 1;
}

/* (seed, round, tag, ids, v, minus or None, payload, top, width, block, two_norm, dithered[, begin, end]): bad rows or None.
 * Of rows with one scale the columns from 0 come first: they make the scale of the whole row, and the others read it.
 * To feed back, between minus and payload: out or None, and after dithered: eta. Then minus is u, which is advanced. */
static PyObject *encode_rows(PyObject *const *args, Py_ssize_t nargs, int feedback) {
    BEGIN_WITH(12 + 2 * feedback, 2);
    Philox p;
    Grid g;
    int64_t rows, at[2];
    double eta = 0;
    Py_buffer *v, *minus = NULL, *out = NULL, *payload;
    const int64_t *ids = take_key(&all, args, &p, &rows);
    if (!ids) goto end;
    TAKE(v, 4, "fd", 2, 0);
    if (args[5] != Py_None) {
        TAKE(minus, 5, like(v), 2, feedback);
    }
    if (feedback && args[6] != Py_None) {
        TAKE(out, 6, like(v), 2, 1);
    }
    args += feedback;
    TAKE(payload, 6, "B", 2, 1);
    NEED(v->shape[0] == rows && payload->shape[0] == rows, "v, payload and ids differ in rows");
    NEED(!minus || (minus->shape[0] == rows && minus->shape[1] == v->shape[1]), "v and minus differ in shape");
    NEED(!out || (out->shape[0] == rows && out->shape[1] == v->shape[1]), "v and out differ in shape");
    NEED(minus || !feedback, "no u");
    NEED(take_grid(&g, args + 7, v->shape[1], payload->shape[1]), "grid");
    g.two_norm = PyObject_IsTrue(args[10]);
    g.dithered = PyObject_IsTrue(args[11]);
    if (feedback) eta = PyFloat_AsDouble(args[12]);
    if (PyErr_Occurred()) goto end;
    NEED(take_columns(at, args + 12 + feedback, nargs - 12 - 2 * feedback, &g), "columns");
    char *failed = PyMem_Calloc((size_t)rows + 1, 1);
    if (!failed) {
        PyErr_NoMemory();
        goto end;
    }
    void *reference = minus ? minus->buf : NULL, *estimate = out ? out->buf : NULL;
    Encoding job = {v->buf, reference, payload->buf, &g, &p, ids, failed, 0, feedback ? reference : NULL, estimate, eta};
    Py_BEGIN_ALLOW_THREADS;
    const int whole = at[1] - at[0] == g.d, count = threads_for(rows * (at[1] - at[0]), MUCH);
    job.scaled = g.block >= g.d && (!whole || (count > 1 && threads_for(g.d, MUCH) > 1)); /* long rows of one scale: all share each */
    for (int64_t i = 0; job.scaled && at[0] == 0 && i < rows; i++) failed[i] = !scale_row(&job, i, is_double(v), count);
    const int64_t unit = g.block >= g.d && !job.scaled ? g.d : unit_of(&g);
    share(count, rows, at[0], at[1], unit, is_double(v) ? encode_part_f64 : encode_part_f32, &job);
    Py_END_ALLOW_THREADS;
    result = failures(failed, rows);
    PyMem_Free(failed);
    END;
}

FUNCTION(quantize_encode) { return encode_rows(args, nargs, 0); }
FUNCTION(quantize_feedback) { return encode_rows(args, nargs, 1); }

static int decode_rows(const Py_buffer *payload, const Py_buffer *out, const Py_buffer *u, const Grid *g, double gain, double eta,
                       const int64_t at[2]) {
    const Py_buffer *to = u ? u : out;
    const int64_t rows = to->shape[0];
    Decoding job = {payload->buf, out ? out->buf : NULL, u ? u->buf : NULL, g, gain, eta, 0};
    Py_BEGIN_ALLOW_THREADS;
    const int count = threads_for(rows * (at[1] - at[0]), SOME);
    share(count, rows, at[0], at[1], unit_of(g), is_double(to) ? decode_part_f64 : decode_part_f32, &job);
    Py_END_ALLOW_THREADS;
    return !job.bad;
}

FUNCTION(quantize_decode) { /* (payload, out, top, width, block, gain[, begin, end]): are all scales in range? */
    BEGIN_WITH(6, 2);
    Grid g;
    int64_t at[2];
    Py_buffer *payload, *out;
    TAKE(payload, 0, "B", 2, 0);
    TAKE(out, 1, "fd", 2, 1);
    const double gain = PyFloat_AsDouble(args[5]);
    if (PyErr_Occurred()) goto end;
    NEED(payload->shape[0] == out->shape[0], "payload and out differ in rows");
    NEED(take_grid(&g, args + 2, out->shape[1], payload->shape[1]), "grid");
    NEED(take_columns(at, args + 6, nargs - 6, &g), "columns");
    result = PyBool_FromLong(decode_rows(payload, out, NULL, &g, gain, 0, at));
    END;
}

/* (payload, u, out or None, top, width, block, gain, eta[, begin, end]): out = u + q, then u += eta q; are all scales in range? */
FUNCTION(quantize_advance) {
    BEGIN_WITH(8, 2);
    Grid g;
    int64_t at[2];
    Py_buffer *payload, *u, *out = NULL;
    TAKE(payload, 0, "B", 2, 0);
    TAKE(u, 1, "fd", 2, 1);
    if (args[2] != Py_None) {
        TAKE(out, 2, like(u), 2, 1);
    }
    const double gain = PyFloat_AsDouble(args[6]), eta = PyFloat_AsDouble(args[7]);
    if (PyErr_Occurred()) goto end;
    NEED(payload->shape[0] == u->shape[0], "payload and u differ in rows");
    NEED(!out || (out->shape[0] == u->shape[0] && out->shape[1] == u->shape[1]), "u and out differ in shape");
    NEED(take_grid(&g, args + 3, u->shape[1], payload->shape[1]), "grid");
    NEED(take_columns(at, args + 8, nargs - 8, &g), "columns");
    result = PyBool_FromLong(decode_rows(payload, out, u, &g, gain, eta, at));
    END;
}

FUNCTION(total) { /* (z (m, d), ptr (n + 1,), out (n, d)) */
    BEGIN(3);
    Py_buffer *z, *ptr, *out;
    TAKE(z, 0, "fd", 2, 0);
    TAKE(ptr, 1, "q", 1, 0);
    TAKE(out, 2, like(z), 2, 1);
    const int64_t n = out->shape[0], d = out->shape[1];
    NEED(z->shape[1] == d, "z and out differ in columns");
    NEED(rising(ptr, n, z->shape[0]), "ptr");
    Sum sum = {.x = z->buf, .ptr = ptr->buf, .out = out->buf, .d = d};
    SHARE(z, total, z->shape[0] + n, n, d, &sum);
    NONE;
    END;
}

/* Would row by row most agents wait for the memory, as the rows of their neighbors are neither near nor few? */
static int scattered(const int64_t *ptr, const int64_t *head, int64_t n, int64_t row_bytes) {
    int64_t far = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t a = ptr[i]; a < ptr[i + 1]; a++) far += (head[a] > i ? head[a] - i : i - head[a]) > FAR / row_bytes;
    return far >= 2 * n;
}

FUNCTION(disagreement) { /* (x (k, d), ptr (n + 1,), head (m,), weights (m,) or None, out (n, d)) */
    BEGIN(5);
    Py_buffer *x, *ptr, *head, *weights = NULL, *out;
    TAKE(x, 0, "fd", 2, 0);
    TAKE(ptr, 1, "q", 1, 0);
    TAKE(head, 2, "q", 1, 0);
    if (args[3] != Py_None) {
        TAKE(weights, 3, like(x), 1, 0);
    }
    TAKE(out, 4, like(x), 2, 1);
    const int64_t n = out->shape[0], d = out->shape[1], m = head->shape[0];
    NEED(x->shape[1] == d && x->shape[0] >= n, "x and out differ in columns, or x has fewer rows");
    NEED(rising(ptr, n, m), "ptr");
    NEED(!weights || weights->shape[0] == m, "weights and head differ in length");
    for (int64_t a = 0; a < m; a++) NEED(((int64_t *)head->buf)[a] >= 0 && ((int64_t *)head->buf)[a] < x->shape[0], "head");
    const int64_t together = d && scattered(ptr->buf, head->buf, n, d * x->itemsize) ? n : 0;
    Sum sum = {x->buf, weights ? weights->buf : NULL, ptr->buf, head->buf, out->buf, d, together};
    SHARE(x, disagreement, m + n, together ? 1 : n, d, &sum);
    NONE;
    END;
}

/* Where the rows of blocks (first row, payload) lie, all of them once; 0 with an error, or without one where they are not aligned. */
static int take_rows(Py_buffer *payloads, PyObject *blocks, const uint8_t **at, int64_t rows, int64_t size) {
    int aligned = 1;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(blocks); i++) {
        PyObject *block = PyTuple_GET_ITEM(blocks, i);
        if (!require(PyTuple_Check(block) && PyTuple_GET_SIZE(block) == 2, "a block needs its row and payload")) return 0;
        const int64_t first = PyLong_AsLongLong(PyTuple_GET_ITEM(block, 0));
        if (PyErr_Occurred() || PyObject_GetBuffer(PyTuple_GET_ITEM(block, 1), &payloads[i], PyBUF_C_CONTIGUOUS)) return 0;
        const Py_buffer *b = &payloads[i];
        if (!require(b->ndim == 2 && b->itemsize == 1, "a payload needs rows of bytes")) return 0;
        if (!require(first >= 0 && first + b->shape[0] <= rows && b->shape[1] == payloads[0].shape[1], "a block does not fit")) return 0;
        for (int64_t r = 0; r < b->shape[0]; r++) {
            if (!require(!at[first + r], "a row comes twice")) return 0;
            at[first + r] = (const uint8_t *)b->buf + r * b->shape[1];
            aligned &= (uintptr_t)at[first + r] % (uintptr_t)size == 0;
        }
    }
    for (int64_t r = 0; r < rows; r++)
        if (!require(at[r] != NULL, "a row is missing")) return 0;
    return aligned;
}

/* (blocks, rows, u (k, d) or None, ptr (n + 1,), head (m,), weights (m,) or None, out (n, d), top, width, block, gain, eta): of the
 * k = `rows` rows û = u + q, or q, whose messages lie in the blocks, out is the disagreement, and u ← u + η q; width = 0: plain
 * numbers. False where a message is damaged; None, and nothing is done, where a row of plain numbers is not aligned, or rows are
 * too many to gain by it. */
FUNCTION(mix) {
    BEGIN(12);
    Grid g;
    Py_buffer *u = NULL, *ptr, *head, *weights = NULL, *out, *payloads = NULL;
    const uint8_t **at = NULL;
    Py_ssize_t blocks = 0;
    TAKE(out, 6, "fd", 2, 1);
    if (args[2] != Py_None) {
        TAKE(u, 2, like(out), 2, 1);
    }
    TAKE(ptr, 3, "q", 1, 0);
    TAKE(head, 4, "q", 1, 0);
    if (args[5] != Py_None) {
        TAKE(weights, 5, like(out), 1, 0);
    }
    const int64_t rows = PyLong_AsLongLong(args[1]), n = out->shape[0], d = out->shape[1], m = head->shape[0];
    const double gain = PyFloat_AsDouble(args[10]), eta = PyFloat_AsDouble(args[11]);
    const long width = PyLong_AsLong(args[8]);
    if (PyErr_Occurred()) goto end;
    NEED(d >= 1 && n >= 1 && rows >= n, "rows");
    NEED(!u || (u->shape[0] == rows && u->shape[1] == d), "u and the messages differ in shape");
    NEED(rising(ptr, n, m), "ptr");
    NEED(!weights || weights->shape[0] == m, "weights and head differ in length");
    for (int64_t a = 0; a < m; a++) NEED(((int64_t *)head->buf)[a] >= 0 && ((int64_t *)head->buf)[a] < rows, "head");
    NEED(PyTuple_Check(args[0]) && PyTuple_GET_SIZE(args[0]) > 0, "blocks");
    blocks = PyTuple_GET_SIZE(args[0]);
    payloads = PyMem_Calloc((size_t)blocks, sizeof *payloads);
    at = PyMem_Calloc((size_t)rows, sizeof *at);
    if (!payloads || !at) {
        PyErr_NoMemory();
        goto end;
    }
    if (!take_rows(payloads, args[0], at, rows, width ? 1 : out->itemsize)) {
        if (!PyErr_Occurred()) result = Py_NewRef(Py_None);
        goto end;
    }
    NEED(width ? take_grid(&g, args + 7, d, payloads->shape[1]) : payloads->shape[1] == d * out->itemsize, "grid, or bytes of a row");
    const int64_t unit = width ? unit_of(&g) : TILE;
    if (rows > ROOM / (unit < d ? unit : d) / out->itemsize) { /* too many rows for columns of them to stay in the cache */
        NONE;
        goto end;
    }
    Mix job = {at, width ? &g : NULL, u ? u->buf : NULL, rows, n, d, gain, eta, ptr->buf, head->buf, weights ? weights->buf : NULL, out->buf, 0};
    Py_BEGIN_ALLOW_THREADS;
    share(threads_for((rows + m) * d, SOME), 1, 0, d, unit, is_double(out) ? mix_f64 : mix_f32, &job);
    Py_END_ALLOW_THREADS;
    if (job.failed == FULL) PyErr_NoMemory();
    else result = PyBool_FromLong(!job.failed);
end:
    for (Py_ssize_t i = 0; payloads && i < blocks; i++) PyBuffer_Release(&payloads[i]);
    PyMem_Free(payloads);
    PyMem_Free(at);
    release(&all);
    return result;
}

/* (a, y (k, d), b, w (k, d), c, x (l, d) or None, at (k,) or None, out (k, d)): out = a y + b w + c x[at]; out may be y or w */
FUNCTION(blend) {
    BEGIN(8);
    Py_buffer *y, *w, *x = NULL, *at = NULL, *out;
    const double a = PyFloat_AsDouble(args[0]), b = PyFloat_AsDouble(args[2]), c = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) return NULL;
    TAKE(y, 1, "fd", 2, 0);
    TAKE(w, 3, like(y), 2, 0);
    if (args[5] != Py_None) {
        TAKE(x, 5, like(y), 2, 0);
    }
    if (args[6] != Py_None) {
        TAKE(at, 6, "q", 1, 0);
    }
    TAKE(out, 7, like(y), 2, 1);
    const int64_t k = out->shape[0], d = out->shape[1];
    NEED(y->shape[0] == k && w->shape[0] == k && y->shape[1] == d && w->shape[1] == d, "y, w and out differ in shape");
    NEED(!x || (x->shape[1] == d && (at ? at->shape[0] == k : x->shape[0] == k)), "x or at does not fit");
    for (int64_t i = 0; x && at && i < k; i++) NEED(((int64_t *)at->buf)[i] >= 0 && ((int64_t *)at->buf)[i] < x->shape[0], "at");
    Blend rows = {a, b, c, y->buf, w->buf, x ? x->buf : NULL, at ? at->buf : NULL, out->buf, d};
    SHARE(y, blend, 2 * k, k, d, &rows);
    NONE;
    END;
}

/* X (S, d), ptr (n + 1,), [index (n, B)], then an input and an output: agent rows (n, d) and one number a sample. */
static PyObject *linear_model(PyObject *const *args, Py_ssize_t nargs, int batched, int combine) {
    BEGIN(batched ? 5 : 4);
    Py_buffer *X, *ptr, *index = NULL, *agents, *samples;
    const int last = batched ? 3 : 2;
    TAKE(X, 0, "fd", 2, 0);
    TAKE(ptr, 1, "q", 1, 0);
    if (batched) {
        TAKE(index, 2, "q", 2, 0);
    }
    TAKE(agents, combine ? last + 1 : last, like(X), 2, combine);
    TAKE(samples, combine ? last : last + 1, like(X), batched ? 2 : 1, !combine);
    const int64_t n = agents->shape[0], d = X->shape[1];
    NEED(agents->shape[1] == d, "X and the agents' rows differ in columns");
    NEED(rising(ptr, n, X->shape[0]), "ptr");
    NEED(samples->shape[0] == (batched ? n : X->shape[0]), "rows of the samples");
    if (batched) {
        const int64_t B = index->shape[1], *p = ptr->buf, *at = index->buf;
        NEED(index->shape[0] == n && samples->shape[1] == B, "shape of index");
        for (int64_t i = 0; i < n; i++)
            for (int64_t h = 0; h < B; h++)
                NEED(at[i * B + h] >= 0 && at[i * B + h] < p[i + 1] - p[i], "index beyond an agent's samples");
    }
    const int64_t B = batched ? index->shape[1] : 0, *at = batched ? index->buf : NULL;
    if (combine) {
        EACH(X, combine, X->buf, ptr->buf, at, B, samples->buf, agents->buf, n, d, 0);
    } else {
        EACH(X, margins, X->buf, ptr->buf, at, B, agents->buf, samples->buf, n, d);
    }
    NONE;
    END;
}

FUNCTION(glm_margins) { return linear_model(args, nargs, 0, 0); }
FUNCTION(glm_combine) { return linear_model(args, nargs, 0, 1); }
FUNCTION(glm_margins_batch) { return linear_model(args, nargs, 1, 0); }
FUNCTION(glm_combine_batch) { return linear_model(args, nargs, 1, 1); }

FUNCTION(glm_slopes) { /* (t (k,), y (k,), logistic): t = φ'(t, y) */
    BEGIN(3);
    const int logistic = PyObject_IsTrue(args[2]);
    if (PyErr_Occurred()) return NULL;
    Py_buffer *t, *y;
    TAKE(t, 0, "fd", 1, 1);
    TAKE(y, 1, like(t), 1, 0);
    NEED(t->shape[0] == y->shape[0], "t and y differ in length");
    EACH(t, slopes, t->buf, y->buf, logistic, t->shape[0]);
    NONE;
    END;
}

/* (X (S, d), ptr (n + 1,), index (n, B) or None, x (n, d), y (S,), logistic, l2, table (S,) or None, mean (n, d) or None,
 * renew, out (n, d)): `Problem.estimate`, agent by agent, so that its samples are read from memory once */
FUNCTION(glm_estimate) {
    BEGIN(11);
    Py_buffer *X, *ptr, *index = NULL, *x, *y, *table = NULL, *mean = NULL, *out;
    const double l2 = PyFloat_AsDouble(args[6]);
    const int logistic = PyObject_IsTrue(args[5]), renew = PyObject_IsTrue(args[9]);
    if (PyErr_Occurred()) return NULL;
    TAKE(X, 0, "fd", 2, 0);
    TAKE(ptr, 1, "q", 1, 0);
    if (args[2] != Py_None) {
        TAKE(index, 2, "q", 2, 0);
    }
    TAKE(x, 3, like(X), 2, 0);
    TAKE(y, 4, like(X), 1, 0);
    if (args[7] != Py_None) {
        TAKE(table, 7, like(X), 1, renew);
    }
    if (args[8] != Py_None) {
        TAKE(mean, 8, like(X), 2, renew);
    }
    TAKE(out, 10, like(X), 2, 1);
    const int64_t n = out->shape[0], d = X->shape[1], *p = ptr->buf, *at = index ? index->buf : NULL;
    NEED(d >= 1, "no columns");
    NEED(x->shape[0] == n && x->shape[1] == d && out->shape[1] == d, "X, x and out differ in columns or agents");
    NEED(rising(ptr, n, X->shape[0]), "ptr");
    NEED(y->shape[0] == X->shape[0] && (!table || table->shape[0] == X->shape[0]), "y or table and X differ in samples");
    NEED(!mean || (mean->shape[0] == n && mean->shape[1] == d), "mean and out differ in shape");
    NEED(!renew || (table && mean), "nothing to renew");
    NEED(!at || index->shape[0] == n, "shape of index");
    const int64_t B = at ? index->shape[1] : 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < B; h++)
            NEED(at[i * B + h] >= 0 && at[i * B + h] < p[i + 1] - p[i], "index beyond an agent's samples");
    EACH(X, estimate, X->buf, p, at, B, x->buf, y->buf, logistic, l2, table ? table->buf : NULL, mean ? mean->buf : NULL, renew,
         out->buf, n, d);
    NONE;
    END;
}

static PyMethodDef methods[] = {METHOD(use_threads),
                                METHOD(words),
                                METHOD(halves),
                                METHOD(sample_batches),
                                METHOD(all_finite),
                                METHOD(copy_finite),
                                METHOD(quantize_encode),
                                METHOD(quantize_feedback),
                                METHOD(quantize_decode),
                                METHOD(quantize_advance),
                                METHOD(total),
                                METHOD(disagreement),
                                METHOD(mix),
                                METHOD(blend),
                                METHOD(glm_margins),
                                METHOD(glm_combine),
                                METHOD(glm_margins_batch),
                                METHOD(glm_combine_batch),
                                METHOD(glm_slopes),
                                METHOD(glm_estimate),
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "decentral.kernels._dense",
                                    .m_doc = "Inner loops in C; NumPy twins stand where they are called.",
                                    .m_size = -1,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit__dense(void) {
#ifdef HAVE_AVX2
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) philox = philox_avx2;
#endif
    return PyModule_Create(&module);
}

#else /* --- for REAL = float and double ---------------------------------------------------------------------------- */

typedef BITS NAME(bits) __attribute__((may_alias));
enum { NAME(WIDTH) = 32 / sizeof(REAL) };
typedef REAL NAME(vector) __attribute__((vector_size(32)));
typedef REAL NAME(unaligned) __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));

/* The bits of the largest magnitude: integer order is the order of magnitudes, infinity and NaN come last. */
INLINE NAME(bits) NAME(largest)(const REAL *v, int64_t n) {
    const NAME(bits) *bits = (const NAME(bits) *)v;
    const NAME(bits) magnitude = sizeof(REAL) == 4 ? (NAME(bits))INT32_MAX : (NAME(bits))INT64_MAX;
    NAME(bits) m = 0;
#pragma GCC unroll 4
    for (int64_t i = 0; i < n; i++) {
        const NAME(bits) a = bits[i] & magnitude;
        m = a > m ? a : m;
    }
    return m;
}

/* x − u, a tile of it at a time, or x itself where there is no u. */
INLINE const REAL *NAME(difference)(const REAL *x, const REAL *u, int64_t n, REAL *room) {
    if (!u) return x;
    for (int64_t i = 0; i < n; i++) room[i] = x[i] - u[i];
    return room;
}

INLINE NAME(bits) NAME(largest_difference)(const REAL *x, const REAL *u, int64_t n) {
    REAL room[TILE];
    NAME(bits) m = 0;
    if (!u) return NAME(largest)(x, n);
    for (int64_t e = 0; e < n; e += TILE) {
        const int64_t size = n - e < TILE ? n - e : TILE;
        const NAME(bits) a = NAME(largest)(NAME(difference)(x + e, u + e, size, room), size);
        m = a > m ? a : m;
    }
    return m;
}

INLINE REAL NAME(from_bits)(NAME(bits) b) {
    REAL x;
    memcpy(&x, &b, sizeof x);
    return x;
}

CLONES static int NAME(finite)(const REAL *v, int64_t n) { return NAME(from_bits)(NAME(largest)(v, n)) < (REAL)INFINITY; }

/* Sum of squares of v − u in double: a tile's lanes over its rows in order, lanes halved, tiles by pairs. */
static double NAME(sum_of_squares)(const REAL *v, const REAL *u, int64_t n) {
    double partial[64];
    REAL room[TILE];
    int depth = 0;
    for (int64_t t = 0; t * TILE < n; t++) {
        const int64_t end = n - t * TILE < TILE ? n - t * TILE : TILE;
        const REAL *x = NAME(difference)(v + t * TILE, u ? u + t * TILE : NULL, end, room);
        double acc[LANES] = {0};
        int64_t e = 0;
        for (; e + LANES <= end; e += LANES)
            for (int l = 0; l < LANES; l++) acc[l] += (double)x[e + l] * (double)x[e + l];
        for (int l = 0; e < end; e++, l++) acc[l] += (double)x[e] * (double)x[e];
        for (int half = LANES / 2; half; half /= 2)
            for (int l = 0; l < half; l++) acc[l] += acc[l + half];
        partial[depth++] = acc[0];
        depth = add_by_pairs(partial, depth, t + 1);
    }
    return add_rest(partial, depth);
}

/* Of a part of a long row. */
CLONES static void NAME(norms)(void *context, const Part *part) {
    Norms *to = context;
    const int64_t i = part->begin / to->width, size = part->end - part->begin;
    const REAL *v = (const REAL *)to->v + part->begin, *minus = to->minus ? (const REAL *)to->minus + part->begin : NULL;
    to->largest[i] = (double)NAME(from_bits)(NAME(largest_difference)(v, minus, size));
    if (to->two_norm) to->squares[i] = NAME(sum_of_squares)(v, minus, size);
}

/* Where decoded entries q go: out = q; or with a reference u, out = u + q where out is wanted, and u ← u + η q. */
typedef struct {
    REAL *out, *u, eta;
} NAME(Target);

/* A number whose last place counts 2^-16: half-words stand in its lowest bits. */
#define GRAIN (sizeof(REAL) == 4 ? (REAL)0x1p7 : (REAL)0x1p36)

typedef struct {
    REAL less; /* GRAIN minus what is added to the half-word 2^-16: exact, as is their difference below */
    int zero, top, width;
    uint32_t ones; /* 1 in each of the codes that share a word */
    REAL middle;   /* a code less `zero`, and this, is a level */
} NAME(Rounding);

/* Codes of `count` lanes of `rows` rows, side by side in one word of a lane, the first row in the lowest bits; inv is a row's.
 * words[j] has the half-words of rows 2j (low) and 2j + 1 of eight: `odd` is the first row's parity. Where it is not NULL,
 * `kept` gets codes less `zero`, not clipped yet; it may be x. */
INLINE void NAME(round_rows)(const REAL *x, int rows, int count, const REAL *inv, const uint32_t (*words)[LANES], int odd,
                             NAME(Rounding) to, uint32_t *packed, REAL *kept) {
    const REAL grain = GRAIN;
    const int least = -to.zero, most = to.top - to.zero;
    const uint32_t zeros = (uint32_t)to.zero * (rows > 1 ? to.ones : 1);
    NAME(bits) place;
    memcpy(&place, &grain, sizeof place);
    for (int l = 0; l < count; l++) {
        uint32_t word = 0;
#pragma GCC unroll 8
        for (int r = rows - 1; r >= 0; r--) {
            const uint32_t half = words[(odd + r) / 2][l] >> (odd + r) % 2 * 16 & 0xFFFF;
            const REAL u = NAME(from_bits)(place | (NAME(bits))half) - to.less;
            const REAL whole = FLOOR(x[r * LANES + l] * inv[r] + u);
            if (kept) kept[r * LANES + l] = whole;
            int32_t q = (int32_t)whole;
            q = q < least ? least : q;
            q = q > most ? most : q;
            word = (word << to.width) + (uint32_t)q;
        }
        packed[l] = word + zeros;
    }
}

INLINE REAL NAME(level)(REAL kept, NAME(Rounding) to) {
    const REAL least = -(REAL)to.zero, most = (REAL)(to.top - to.zero);
    kept = kept < least ? least : kept;
    return (kept > most ? most : kept) + to.middle;
}

/* What `expand_row` does with the codes of `round_rows`. */
INLINE void NAME(advance_row)(const REAL *kept, int count, NAME(Rounding) to, REAL step, const NAME(Target) *t, int64_t e) {
    const REAL eta = t->eta;
    REAL *restrict u = t->u + e;
    if (!t->out) {
        for (int l = 0; l < count; l++) u[l] += eta * (NAME(level)(kept[l], to) * step);
        return;
    }
    REAL *restrict out = t->out + e;
    for (int l = 0; l < count; l++) {
        const REAL q = NAME(level)(kept[l], to) * step;
        out[l] = u[l] + q;
        u[l] += eta * q;
    }
}

/* Columns begin..end − 1 of a row of v − u, or of v where u is NULL: whole tiles and blocks, or whole tiles where the one
 * scale of the row is in the payload already. A target is this u: it advances tile by tile, by what is at hand. */
INLINE int NAME(encode)(const Encoding *job, int64_t row, int64_t begin, int64_t end, const NAME(Target) *t) {
    const Grid *g = job->g;
    const REAL *v = (const REAL *)job->v + row * g->d, *u = job->minus ? (const REAL *)job->minus + row * g->d : NULL;
    const uint32_t id = (uint32_t)job->ids[row];
    uint8_t *out = job->payload + row * g->row_bytes;
    const REAL half = (REAL)g->top / 2;
    const int width = g->width, together = width > 8 ? 1 : width > 4 ? 4 : 8;
    const REAL added = half - (REAL)(g->top / 2) + (g->dithered ? (REAL)0x1p-17 : (REAL)0.5);
    NAME(Rounding) to = {GRAIN - added, g->top / 2, g->top, width, 0, (REAL)(g->top / 2) - half};
    for (int r = 0; r < together; r++) to.ones = (to.ones << width) + 1;
    const int64_t before = begin ? begin / g->block : 0; /* blocks; a division costs as much as some entries */
    uint8_t *scales = out + 4 * before, *codes = out + 4 * ceil_div(g->d, g->block) + begin / TILE * 4 * LANES * width;
    uint32_t random[4][LANES];
    REAL scale = 0, spacing = 0;
    int64_t next = begin;
    if (!g->dithered) memset(random, 0, sizeof random);
    for (int64_t start = begin; start < end; start += TILE) {
        const int64_t n = end - start < TILE ? end - start : TILE;
        uint32_t tile[TILE], packed[LANES];
        REAL room[TILE], inv[LANES], step[LANES];
        const REAL *x = NAME(difference)(v + start, u ? u + start : NULL, n, room);
        if (t) x = room; /* so it is, and the compiler must know: what is kept overlaps nothing else */
        for (int64_t e = 0; e < n;) {
            if (start + e == next) {
                float s;
                const int64_t size = g->d - next < g->block ? g->d - next : g->block;
                const int here = e + size <= n; /* the block lies in this tile: its differences are at hand */
                const REAL *block = here ? x + e : v + next, *minus = here || !u ? NULL : u + next;
                if (job->scaled) memcpy(&s, scales, 4);
                else {
                    double m = NAME(from_bits)(NAME(largest_difference)(block, minus, size));
                    if (!(m < INFINITY)) return 0;
                    if (g->two_norm) m = fmax(m, sqrt(NAME(sum_of_squares)(block, minus, size)));
                    if (!scale_above(m, &s)) return 0;
                    memcpy(scales, &s, 4);
                }
                scale = s > 0 ? half / (REAL)s : 0;
                if (t) spacing = (REAL)s / half;
                scales += 4, next += g->block;
            }
            for (const int64_t until = next - start < n ? next - start : n; e < until; e += LANES)
                inv[e / LANES] = scale, step[e / LANES] = spacing;
        }
        for (int r = 0, rows; r * LANES < n; r += rows) {
            const int64_t e = r * LANES;
            const uint32_t(*words)[LANES] = (const uint32_t(*)[LANES])random + r % 8 / 2;
            if (r % 8 == 0) {
                if (g->dithered) philox(job->key, id, (uint32_t)((start + e) / 8), n < LANES ? (int)n : LANES, random);
                if (end - start > TILE) {
                    fetch(v + start + TILE + e, 8 * LANES * sizeof(REAL));
                    if (u) fetch(u + start + TILE + e, 8 * LANES * sizeof(REAL));
                }
            }
            rows = n == TILE ? together : 1;
            REAL *kept = t ? room + e : NULL;
            uint32_t *one = n == TILE ? packed : tile + e;
            if (rows == 8) NAME(round_rows)(x + e, 8, LANES, inv + r, words, 0, to, packed, kept);
            else if (rows == 4) NAME(round_rows)(x + e, 4, LANES, inv + r, words, 0, to, packed, kept);
            else if (n - e >= LANES) NAME(round_rows)(x + e, 1, LANES, inv + r, words, r % 2, to, one, kept);
            else NAME(round_rows)(x + e, 1, (int)(n - e), inv + r, words, r % 2, to, one, kept);
            if (n == TILE) put_words(packed, codes, r * width, rows * width);
        }
        if (n == TILE) codes += 4 * LANES * width;
        else pack_stream(tile, n, width, codes);
        for (int64_t e = 0; t && e < n; e += LANES) {
            if (n - e >= LANES) NAME(advance_row)(room + e, LANES, to, step[e / LANES], t, start + e);
            else NAME(advance_row)(room + e, (int)(n - e), to, step[e / LANES], t, start + e);
        }
    }
    return 1;
}
#undef GRAIN

CLONES static int NAME(encode_row)(const Encoding *job, int64_t row, int64_t begin, int64_t end) {
    return NAME(encode)(job, row, begin, end, NULL);
}

CLONES static int NAME(feed_back)(const Encoding *job, int64_t row, int64_t begin, int64_t end) {
    const int64_t at = row * job->g->d;
    const NAME(Target) to = {job->out ? (REAL *)job->out + at : NULL, (REAL *)job->u + at, (REAL)job->eta};
    return NAME(encode)(job, row, begin, end, &to);
}

static void NAME(encode_part)(void *context, const Part *part) {
    const Encoding *job = context;
    for (int64_t i = part->first; i < part->last; i++) {
        if (__atomic_load_n(&job->failed[i], __ATOMIC_RELAXED)) continue;
        if (!(job->u ? NAME(feed_back) : NAME(encode_row))(job, i, part->begin, part->end))
            __atomic_store_n(&job->failed[i], 1, __ATOMIC_RELAXED);
    }
}

INLINE void NAME(expand_row)(const uint32_t *codes, int count, uint32_t top, REAL half, REAL step, const NAME(Target) *t, int64_t e) {
    int32_t c[LANES];
    REAL q[LANES];
    for (int l = 0; l < count; l++) c[l] = (int32_t)(codes[l] < top ? codes[l] : top);
    if (!t->u) {
        for (int l = 0; l < count; l++) t->out[e + l] = ((REAL)c[l] - half) * step;
        return;
    }
    REAL *restrict u = t->u + e;
    for (int l = 0; l < count; l++) q[l] = ((REAL)c[l] - half) * step;
    if (t->out) {
        REAL *restrict out = t->out + e;
        for (int l = 0; l < count; l++) out[l] = u[l] + q[l];
    }
    for (int l = 0; l < count; l++) u[l] += t->eta * q[l];
}

INLINE int NAME(decode)(const uint8_t *in, const NAME(Target) *t, const Grid *g, REAL gain, int64_t begin, int64_t end) {
    const REAL half = (REAL)g->top / 2;
    const int width = g->width;
    const uint32_t top = (uint32_t)g->top, mask = (1u << width) - 1;
    const int64_t before = begin ? begin / g->block : 0;
    const uint8_t *scales = in + 4 * before, *codes = in + 4 * ceil_div(g->d, g->block) + begin / TILE * 4 * LANES * width;
    REAL step = 0;
    int64_t next = begin;
    for (int64_t start = begin; start < end; start += TILE) {
        const int64_t n = end - start < TILE ? end - start : TILE;
        uint32_t tile[TILE], row[LANES];
        if (n == TILE) {
            memcpy(tile, codes, (size_t)(4 * LANES * width));
            codes += 4 * LANES * width;
        } else {
            uint8_t padded[TILE * WIDEST / 8 + 4];
            const size_t size = (size_t)ceil_div(n * width, 8);
            memcpy(padded, codes, size);
            memset(padded + size, 0, 4);
            unpack_stream(padded, n, width, tile);
        }
        for (int r = 0; r * LANES < n; r++) {
            const int64_t e = start + r * LANES;
            if (t->u && end - start > TILE) fetch(t->u + e + TILE, LANES * sizeof(REAL));
            if (e == next) {
                float s;
                memcpy(&s, scales, 4);
                if (!(s == 0 || (s >= SMALLEST_SCALE && s <= LARGEST_SCALE))) return 0;
                step = (REAL)s / half * gain;
                scales += 4, next += g->block;
            }
            if (n == TILE) {
                const int shift = r * width % 32;
                const uint32_t *from = tile + r * width / 32 * LANES;
                if (shift + width > 32)
                    for (int l = 0; l < LANES; l++) row[l] = (from[l] >> shift | from[LANES + l] << (32 - shift)) & mask;
                else
                    for (int l = 0; l < LANES; l++) row[l] = from[l] >> shift & mask;
                NAME(expand_row)(row, LANES, top, half, step, t, e);
            } else if (n - r * LANES >= LANES) {
                NAME(expand_row)(tile + r * LANES, LANES, top, half, step, t, e);
            } else {
                NAME(expand_row)(tile + r * LANES, (int)(n - r * LANES), top, half, step, t, e);
            }
        }
    }
    return 1;
}

CLONES static void NAME(decode_part)(void *context, const Part *part) {
    Decoding *d = context;
    for (int64_t i = part->first; i < part->last && !__atomic_load_n(&d->bad, __ATOMIC_RELAXED); i++) {
        const int64_t at = i * d->g->d;
        const NAME(Target) to = {d->out ? (REAL *)d->out + at : NULL, d->u ? (REAL *)d->u + at : NULL, (REAL)d->eta};
        if (!NAME(decode)(d->payload + i * d->g->row_bytes, &to, d->g, (REAL)d->gain, part->begin, part->end))
            __atomic_store_n(&d->bad, 1, __ATOMIC_RELAXED);
    }
}

/* --- Sums over a neighborhood, in arc order; columns in chunks that stay in the first cache ----------------------- */

enum { NAME(CHUNK) = 4096 / sizeof(REAL) };

CLONES static void NAME(total)(void *context, const Part *part) {
    const Sum *s = context;
    const Part p = *part;
    const int64_t *ptr = s->ptr, d = s->d;
    const REAL *z = s->x;
    REAL *out = (REAL *)s->out + p.first * d;
    for (int64_t i = p.first; i < p.last; i++, out += d)
        for (int64_t start = p.begin; start < p.end; start += NAME(CHUNK)) {
            const int64_t size = p.end - start < NAME(CHUNK) ? p.end - start : NAME(CHUNK);
            REAL *restrict sum = out + start;
            if (ptr[i] == ptr[i + 1]) memset(sum, 0, sizeof(REAL) * (size_t)size);
            else memcpy(sum, z + ptr[i] * d + start, sizeof(REAL) * (size_t)size);
            for (int64_t a = ptr[i] + 1; a < ptr[i + 1]; a++) {
                const REAL *restrict term = z + a * d + start;
                for (int64_t k = 0; k < size; k++) sum[k] += term[k];
            }
        }
}

/* sum += w (here − there), w = 1 where there is no weight */
INLINE void NAME(add_difference)(REAL *restrict sum, const REAL *restrict here, const REAL *restrict there, const REAL *weight, int64_t n) {
    const REAL w = weight ? *weight : 1;
    if (weight)
        for (int64_t k = 0; k < n; k++) sum[k] += w * (here[k] - there[k]);
    else
        for (int64_t k = 0; k < n; k++) sum[k] += here[k] - there[k];
}

CLONES static void NAME(disagreement)(void *context, const Part *part) {
    const Sum *s = context;
    const Part p = *part;
    const int64_t *ptr = s->ptr, *head = s->head, d = s->d;
    const int64_t last = s->together ? s->together : p.last, columns = s->together ? NAME(CHUNK) : p.end - p.begin;
    const REAL *x = s->x, *weights = s->weights;
    for (int64_t begin = p.begin; begin < p.end; begin += columns)
        for (int64_t i = p.first; i < last; i++)
            for (int64_t start = begin; start < begin + columns && start < p.end; start += NAME(CHUNK)) {
                const int64_t size = p.end - start < NAME(CHUNK) ? p.end - start : NAME(CHUNK);
                REAL *restrict sum = (REAL *)s->out + i * d + start;
                const REAL *restrict here = x + i * d + start;
                memset(sum, 0, sizeof(REAL) * (size_t)size);
                for (int64_t a = ptr[i]; a < ptr[i + 1]; a++)
                    NAME(add_difference)(sum, here, x + head[a] * d + start, weights ? weights + a : NULL, size);
            }
}

/* A piece of `disagreement` with rows that lie anywhere. */
INLINE void NAME(differences)(const REAL **row, const Mix *m, int64_t i, int64_t start, int64_t size) {
    const REAL *restrict here = row[i] + start, *weights = m->weights;
    REAL *restrict sum = (REAL *)m->out + i * m->d + start;
    memset(sum, 0, sizeof(REAL) * (size_t)size);
    for (int64_t a = m->ptr[i]; a < m->ptr[i + 1]; a++)
        NAME(add_difference)(sum, here, row[m->head[a]] + start, weights ? weights + a : NULL, size);
}

/* Columns begin..end − 1 of received row r: û = u + q to `to` or, where that is NULL, nowhere; u ← u + η q. */
INLINE int NAME(receive)(const Mix *m, int64_t r, REAL *to, int64_t begin, int64_t end) {
    const NAME(Target) target = {to, m->u ? (REAL *)m->u + r * m->d : NULL, (REAL)m->eta};
    if (m->g) return NAME(decode)(m->at[r], &target, m->g, (REAL)m->gain, begin, end);
    const REAL *restrict q = (const REAL *)m->at[r];
    if (!NAME(finite)(q + begin, end - begin)) return 0;
    if (!target.u) return 1;
    REAL *restrict u = target.u;
    if (to)
        for (int64_t e = begin; e < end; e++) to[e] = u[e] + q[e];
    for (int64_t e = begin; e < end; e++) u[e] += target.eta * q[e];
    return 1;
}

CLONES static void NAME(mix)(void *context, const Part *part) {
    Mix *m = context;
    const int64_t unit = m->g ? unit_of(m->g) : TILE, room = ROOM / (int64_t)sizeof(REAL) / m->rows, most = part->end - part->begin;
    const int64_t columns = room < most ? room / unit * unit : most;
    const int kept = m->u ? m->eta != 1 : m->g != NULL; /* û is neither u nor the message */
    const REAL **row = malloc(sizeof *row * (size_t)m->rows);
    REAL *scratch = kept ? malloc(sizeof *scratch * (size_t)(m->rows * columns)) : NULL;
    if (!row || (kept && !scratch)) __atomic_store_n(&m->failed, FULL, __ATOMIC_RELAXED);
    for (int64_t begin = part->begin; begin < part->end && !__atomic_load_n(&m->failed, __ATOMIC_RELAXED); begin += columns) {
        const int64_t end = part->end - begin < columns ? part->end : begin + columns;
        for (int64_t r = 0; r < m->rows; r++) {
            REAL *to = kept ? scratch + r * columns - begin : NULL;
            if (!NAME(receive)(m, r, to, begin, end)) __atomic_store_n(&m->failed, BAD, __ATOMIC_RELAXED);
            row[r] = to ? to : m->u ? (const REAL *)m->u + r * m->d : (const REAL *)m->at[r];
        }
        for (int64_t i = 0; i < m->own; i++)
            for (int64_t e = begin; e < end; e += NAME(CHUNK))
                NAME(differences)(row, m, i, e, end - e < NAME(CHUNK) ? end - e : NAME(CHUNK));
    }
    free(row);
    free(scratch);
}

/* a y + b w + c x[at] on every row; x or at may be missing. */
CLONES static void NAME(blend)(void *context, const Part *part) {
    const Blend *t = context;
    const Part p = *part;
    const int64_t *at = t->at, d = t->d;
    const REAL a = (REAL)t->a, b = (REAL)t->b, c = (REAL)t->c, *x = t->x;
    const REAL *y = (const REAL *)t->y + p.first * d, *w = (const REAL *)t->w + p.first * d;
    REAL *out = (REAL *)t->out + p.first * d;
    for (int64_t i = p.first; i < p.last; i++, y += d, w += d, out += d) {
        const REAL *from = x ? x + (at ? at[i] : i) * d : NULL;
        if (from == out) /* each entry is read before it is written: no dependence, whatever out is */
#pragma GCC ivdep
            for (int64_t k = p.begin; k < p.end; k++) out[k] = (a * y[k] + b * w[k]) + c * out[k];
        else if (from)
#pragma GCC ivdep
            for (int64_t k = p.begin; k < p.end; k++) out[k] = (a * y[k] + b * w[k]) + c * from[k];
        else
#pragma GCC ivdep
            for (int64_t k = p.begin; k < p.end; k++) out[k] = a * y[k] + b * w[k];
    }
}

/* --- Linear models: several samples at a time, each with the arithmetic that it would have alone ------------------ */

INLINE REAL NAME(fold)(const NAME(vector) *acc) {
    REAL lane[NAME(WIDTH)];
    memcpy(lane, acc, sizeof lane);
    for (int half = NAME(WIDTH) / 2; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

/* out[h] = sample h · x_i over the samples of each agent i, or of its batch at[i, :]. Products are added in WIDTH lanes,
 * then the lanes by halves; the last, partial step reads the last WIDTH entries against x with zeros where it overlaps. */
CLONES static void NAME(margins)(const REAL *X, const int64_t *ptr, const int64_t *at, int64_t B, const REAL *x, REAL *out,
                                 int64_t n, int64_t d) {
    const int64_t rest = d % NAME(WIDTH), body = d - rest, last = d - NAME(WIDTH);
    for (int64_t i = 0; i < n; i++, x += d) {
        const int64_t count = at ? B : ptr[i + 1] - ptr[i];
        const REAL *base = X + ptr[i] * d;
        int64_t h = 0;
#define SAMPLE(j) (base + (at ? at[i * B + h + (j)] : h + (j)) * d)
#define LOAD(p) (*(const NAME(unaligned) *)(p))
        if (last < 0) { /* narrower than a vector */
            for (; h < count; h++, out++) {
                const REAL *a = SAMPLE(0);
                REAL s = 0;
                for (int64_t k = 0; k < d; k++) s += a[k] * x[k];
                *out = s;
            }
            continue;
        }
        REAL end[NAME(WIDTH)] = {0};
        memcpy(end + NAME(WIDTH) - rest, x + body, sizeof(REAL) * (size_t)rest);
        const NAME(vector) tail = LOAD(end);
        for (; h + AT_ONCE <= count; h += AT_ONCE, out += AT_ONCE) {
            const REAL *a[AT_ONCE];
            NAME(vector) s[AT_ONCE];
#pragma GCC unroll 8
            for (int j = 0; j < AT_ONCE; j++) a[j] = SAMPLE(j), s[j] = LOAD(a[j] + last) * tail;
            for (int64_t k = 0; k < body; k += NAME(WIDTH)) {
                const NAME(vector) b = LOAD(x + k);
#pragma GCC unroll 8
                for (int j = 0; j < AT_ONCE; j++) s[j] += LOAD(a[j] + k) * b;
            }
#pragma GCC unroll 8
            for (int j = 0; j < AT_ONCE; j++) out[j] = NAME(fold)(&s[j]);
        }
        for (; h < count; h++, out++) {
            const REAL *a = SAMPLE(0);
            NAME(vector) s = LOAD(a + last) * tail;
            for (int64_t k = 0; k < body; k += NAME(WIDTH)) s += LOAD(a + k) * LOAD(x + k);
            *out = NAME(fold)(&s);
        }
    }
}

/* out[i] = Σ_h coef[h] sample h, in the order of the samples, or out[i] + that. */
CLONES static void NAME(combine)(const REAL *X, const int64_t *ptr, const int64_t *at, int64_t B, const REAL *coef, REAL *out,
                                 int64_t n, int64_t d, int add) {
    for (int64_t i = 0; i < n; i++, out += d) {
        const int64_t count = at ? B : ptr[i + 1] - ptr[i];
        const REAL *base = X + ptr[i] * d;
        REAL *restrict sum = out;
        int64_t h = 0;
        if (!add) memset(sum, 0, sizeof(REAL) * (size_t)d);
        for (; h + 4 <= count; h += 4, coef += 4) {
            const REAL *restrict a0 = SAMPLE(0), *restrict a1 = SAMPLE(1), *restrict a2 = SAMPLE(2), *restrict a3 = SAMPLE(3);
            const REAL c0 = coef[0], c1 = coef[1], c2 = coef[2], c3 = coef[3];
            for (int64_t k = 0; k < d; k++) sum[k] = (((sum[k] + c0 * a0[k]) + c1 * a1[k]) + c2 * a2[k]) + c3 * a3[k];
        }
        for (; h < count; h++, coef++) {
            const REAL *restrict a = SAMPLE(0);
            for (int64_t k = 0; k < d; k++) sum[k] += *coef * a[k];
        }
    }
#undef SAMPLE
#undef LOAD
}

/* φ'(t, b) in place of the products t: of the logistic loss, or of least squares. */
CLONES static void NAME(slopes)(REAL *restrict t, const REAL *restrict y, int logistic, int64_t count) {
    if (!logistic)
        for (int64_t h = 0; h < count; h++) t[h] -= y[h];
    else
        for (int64_t h = 0; h < count; h++) t[h] = -((REAL)(1 / (1 + exponential(t[h] * y[h]))) * y[h]);
}

CLONES static void NAME(estimate)(const REAL *X, const int64_t *ptr, const int64_t *at, int64_t B, const REAL *x, const REAL *y,
                                  int logistic, REAL l2, REAL *table, REAL *mean, int renew, REAL *out, int64_t n, int64_t d) {
    /* samples at a time: what fits into the first cache is read again from there */
    const int64_t fit = NEAR / (d * (int64_t)sizeof(REAL)) / AT_ONCE * AT_ONCE, group = fit < AT_ONCE ? AT_ONCE : fit > TILE ? TILE : fit;
    for (int64_t i = 0; i < n; i++, x += d, out += d) {
        const int64_t size = ptr[i + 1] - ptr[i], count = at ? B : size, *batch = at ? at + i * B : NULL;
        const REAL counted = (REAL)count, all = (REAL)size;
        REAL *average = mean ? mean + i * d : NULL;
        memset(out, 0, sizeof(REAL) * (size_t)d);
        for (int64_t h = 0; h < count; h += group) {
            const int64_t some = count - h < group ? count - h : group, *which = batch ? batch + h : NULL;
            const int64_t first = batch ? ptr[i] : ptr[i] + h, part[2] = {first, first + some};
            REAL coef[TILE], b[TILE];
            NAME(margins)(X, part, which, some, x, coef, 1, d);
            for (int64_t j = 0; j < some; j++) b[j] = y[first + (which ? which[j] : j)];
            NAME(slopes)(coef, b, logistic, some);
            for (int64_t j = 0; table && j < some; j++) {
                REAL *entry = table + first + (which ? which[j] : j);
                const REAL new = coef[j];
                coef[j] = new - *entry;
                if (renew) *entry = new;
            }
            NAME(combine)(X, part, which, some, coef, out, 1, d, 1);
        }
        REAL *restrict g = out;
        if (renew)
            for (int64_t k = 0; k < d; k++) {
                const REAL change = g[k], old = average[k];
                average[k] = old + change / all;
                g[k] = change / counted + old;
            }
        else if (average)
            for (int64_t k = 0; k < d; k++) g[k] = g[k] / counted + average[k];
        else
            for (int64_t k = 0; k < d; k++) g[k] /= counted;
        if (l2)
            for (int64_t k = 0; k < d; k++) g[k] += l2 * x[k];
    }
}

#endif
