/* Sparse and sign messages: the k largest entries of a row, the places of entries on the wire, one bit a sign.
 *
 * Every function has a NumPy twin that gives the same bytes (compressors/sparse.py, places.py, sign.py). Magnitudes are
 * compared as integers: without its sign bit a float orders like its bits, with infinity and NaN last.
 *
 * The k largest, exactly, in about one read of the row. A sample of the row brackets the k-th magnitude: lo <= it < hi,
 * with room for chance. One pass keeps what is at least lo, in order; bisection over the bits between lo and hi, among
 * the few that lie there, finds it; a pass over the kept entries drops the rest. The sample cannot make the result
 * wrong: where the counts do not fit the bracket, a histogram of the whole row makes one that does. A bracket of one
 * magnitude (zeros, constants, ties) is counted in place of kept. Short rows are bisected as they are.
 *
 * The file includes itself twice, with REAL = float and double, for the functions that exist for both.
 */
#ifndef REAL

#include "buffers.h"
#include "threads.h"

enum {
    SHORT = 1024,     /* entries of a row that needs no sample */
    GROUPS = 4096,    /* of a sample at most, */
    GROUP = 8,        /* with so many neighboring entries each */
    STRETCH = 4096,   /* entries between two looks at the capacity */
    OVERHANG = 8,     /* entries that a vector may write too many */
    MUCH = 1 << 20,   /* entries that a thread filters at least: some 0.3 ms */
    DIGITS = 2048,    /* of the histogram */
    BATCH = 256       /* places scattered at a time */
};

typedef struct {
    void *values, *spare;
    uint32_t *at;
    int64_t capacity;
} Scratch;

static void drop(Scratch *s) {
    PyMem_RawFree(s->values); /* the others are in its block */
    *s = (Scratch){0};
}

/* Room for at least `capacity` entries of `size` bytes; what was there is lost. May be called without the GIL.
 * One block: the C library then keeps its pages from call to call. */
static int reserve(Scratch *s, int64_t capacity, size_t size) {
    if (s->capacity >= capacity) return 1;
    drop(s);
    const size_t part = (size_t)(capacity + 15) / 16 * 16;
    uint8_t *block = PyMem_RawMalloc(part * (2 * size + sizeof *s->at));
    if (!block) return 0;
    *s = (Scratch){block, block + part * size, (uint32_t *)(void *)(block + 2 * part * size), capacity};
    return 1;
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t groups_of(int64_t d) { return least(d / 512, GROUPS); }

/* Ranks in the sample that bracket rank k of d, four standard deviations and a bit away; `*above` < 1 where there is none. */
static void ranks(int64_t d, int64_t k, int64_t *below, int64_t *above) {
    const double size = (double)(groups_of(d) * GROUP), share = (double)k / (double)d;
    const double slack = 4 * sqrt(size * share * (1 - share)) + GROUP;
    *below = (int64_t)ceil(size * share + slack);
    *above = (int64_t)floor(size * share - slack);
}

/* Entries that the first pass is expected to keep, with room for chance. */
static int64_t expected(int64_t d, int64_t k) {
    if (d <= SHORT) return k;
    int64_t below, above;
    ranks(d, k, &below, &above);
    const double share = (double)(2 * below - above) / (double)(groups_of(d) * GROUP);
    const int64_t most = share < 1 ? (int64_t)((double)d * share) : d;
    return most > groups_of(d) * GROUP ? most : groups_of(d) * GROUP;
}

/* --- Places on the wire: compressors/places.py says how ---------------------------------------------------------- */

typedef struct {
    int64_t d, k, size, start, end; /* size in bytes; the bits start..end tell the high parts */
    int low;                        /* low bits of a place, -1 for a bitmap */
} Code;

static int64_t high_bits(int64_t d, int64_t k, int low) { return low < 0 ? d : k + ((d - 1) >> low) - 1; }

/* What fits into `size` bytes; a wrong low raises ValueError. */
static int make_code(Code *c, int64_t d, int64_t k, int64_t low, int64_t size) {
    if (!require(d >= 1 && d >> 32 == 0 && k >= 1 && k <= d, "from 1 to d places below d, and d below 2^32")) return 0;
    if (!require(low >= -1 && low <= 31, "low bits")) return 0;
    const int64_t start = low < 0 ? 0 : k * low, end = start + high_bits(d, k, (int)low);
    *c = (Code){.d = d, .k = k, .size = ceil_div(end, 8), .start = start, .end = end, .low = (int)low};
    return require(c->size == size, "bytes of the places");
}

INLINE void add_bits(uint8_t *out, int64_t size, int64_t word, uint64_t bits) {
    const int64_t count = least(size - 8 * word, 8);
    uint64_t there = 0;
    if (count == 8) {
        memcpy(&there, out + 8 * word, 8);
        there |= bits;
        memcpy(out + 8 * word, &there, 8);
    } else if (count > 0) {
        memcpy(&there, out + 8 * word, (size_t)count);
        there |= bits;
        memcpy(out + 8 * word, &there, (size_t)count);
    }
}

static void write_places(const Code *c, const uint32_t *at, uint8_t *out) {
    const int low = c->low < 0 ? 0 : c->low, step = c->low >= 0;
    const uint32_t mask = (uint32_t)(((uint64_t)1 << low) - 1);
    memset(out, 0, (size_t)c->size);
    if (low) {
        uint8_t *to = out;
        uint64_t held = 0;
        int bits = 0;
        const int group = low <= 8 ? 4 : 1; /* at most 32 bits */
        for (int64_t i = 0; i < c->k;) {
            if (group == 4 && i + 4 <= c->k) {
                const uint64_t two = (at[i] & mask) | (at[i + 1] & mask) << low;
                const uint64_t next = (at[i + 2] & mask) | (at[i + 3] & mask) << low;
                held |= (two | next << 2 * low) << bits;
                bits += 4 * low, i += 4;
            } else {
                held |= (uint64_t)(at[i] & mask) << bits;
                bits += low, i++;
            }
            if (bits >= 32) {
                memcpy(to, &held, 4);
                to += 4, held >>= 32, bits -= 32;
            }
        }
        memcpy(to, &held, (size_t)((bits + 7) / 8));
    }
    int64_t word = c->start >> 6;
    uint64_t held = 0;
    for (int64_t i = 0; i < c->k; i++) {
        const int64_t bit = c->start + (int64_t)(at[i] >> low) + (step ? i : 0);
        if (bit >> 6 != word) {
            add_bits(out, c->size, word, held);
            word = bit >> 6, held = 0;
        }
        if (bit < c->end) held |= (uint64_t)1 << (bit & 63);
    }
    add_bits(out, c->size, word, held);
}

static int rise(const int64_t *places, int64_t k, int64_t d) {
    int wrong = k > 0 && (places[0] < 0 || places[k - 1] >= d);
    for (int64_t i = 1; i < k; i++) wrong |= places[i] <= places[i - 1];
    return !wrong;
}

INLINE uint64_t load_bits(const uint8_t *in, int64_t size, int64_t byte) {
    uint64_t bits = 0;
    if (byte + 8 <= size) memcpy(&bits, in + byte, 8);
    else if (byte < size) memcpy(&bits, in + byte, (size_t)(size - byte));
    return bits;
}

INLINE uint64_t high_word(const Code *c, const uint8_t *in, int64_t word) {
    uint64_t bits = load_bits(in, c->size, 8 * word);
    if (c->start >> 6 == word) bits &= ~(uint64_t)0 << (c->start & 63);
    if (c->end >> 6 == word) bits &= ((uint64_t)1 << (c->end & 63)) - 1;
    return bits;
}

/* The k places of a code; 0 where they do not rise, or reach d, or are not k. */
static int read_places(const Code *c, const uint8_t *in, int64_t *at) {
    const int low = c->low < 0 ? 0 : c->low, step = c->low >= 0;
    const uint64_t mask = ((uint64_t)1 << low) - 1;
    const int64_t words = (c->end + 63) >> 6;
    int64_t i = 0;
    for (int64_t word = c->start >> 6; word < words; word++)
        for (uint64_t bits = high_word(c, in, word); bits; bits &= bits - 1, i++) {
            if (i == c->k) return 0;
            at[i] = 64 * word + __builtin_ctzll(bits) - c->start - (step ? i : 0);
        }
    if (step && i == c->k - 1) at[i] = c->end - c->start - i, i++; /* the one that is not sent */
    if (i < c->k) return 0;
    for (i = 0; low && i < c->k; i++)
        at[i] = at[i] << low | (int64_t)(load_bits(in, c->size, i * low >> 3) >> (i * low & 7) & mask);
    return rise(at, c->k, c->d);
}

/* --- Vectors: entries that pass a threshold, and signs ------------------------------------------------------------- */

#ifdef HAVE_AVX2
static uint8_t lanes8[256][8], lanes4[16][4], pairs4[16][8]; /* the lanes whose bit is set; as 32-bit halves */

static void fill_lanes(void) {
    for (int mask = 0; mask < 256; mask++)
        for (int l = 0, n = 0; l < 8; l++)
            if (mask >> l & 1) {
                lanes8[mask][n] = (uint8_t)l;
                if (mask < 16) lanes4[mask][n] = (uint8_t)l, pairs4[mask][2 * n] = (uint8_t)(2 * l);
                if (mask < 16) pairs4[mask][2 * n + 1] = (uint8_t)(2 * l + 1);
                n++;
            }
}

AVX2 INLINE __m256i eight(const uint8_t *bytes) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes)); }

AVX2 INLINE void squeeze_f32(__m256i x, unsigned mask, const uint32_t *from, uint32_t e, float *out, uint32_t *at) {
    const __m256i lanes = eight(lanes8[mask]);
    _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(x, lanes));
    if (!at) return;
    const __m256i places = from ? _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)from), lanes)
                                : _mm256_add_epi32(lanes, _mm256_set1_epi32((int)e));
    _mm256_storeu_si256((__m256i *)at, places);
}

AVX2 INLINE void squeeze_f64(__m256i x, unsigned mask, const uint32_t *from, uint32_t e, double *out, uint32_t *at) {
    _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(x, eight(pairs4[mask])));
    if (!at) return;
    int32_t bytes;
    memcpy(&bytes, lanes4[mask], 4);
    const __m128i lanes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
    const __m128i places =
        from ? _mm_castps_si128(_mm_permutevar_ps(_mm_castsi128_ps(_mm_loadu_si128((const __m128i *)from)), lanes))
             : _mm_add_epi32(lanes, _mm_set1_epi32((int)e));
    _mm_storeu_si128((__m128i *)at, places);
}
#define SPREAD_f32(x) _mm256_set1_epi32(x)
#define SPREAD_f64(x) _mm256_set1_epi64x(x)
#define GREATER_f32(a, b) _mm256_cmpgt_epi32(a, b)
#define GREATER_f64(a, b) _mm256_cmpgt_epi64(a, b)
#define MASK_f32(x) (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(x))
#define MASK_f64(x) (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(x))
#define POSITIVE_f32(p) (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_setzero_ps(), _CMP_GE_OQ))
#define POSITIVE_f64(p) (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(p), _mm256_setzero_pd(), _CMP_GE_OQ))
static int avx2 = 0;
#endif

#define REAL float
#define BITS int32_t
#define TOP INT32_MAX
#define INFINITE 0x7F800000
#define SUFFIX f32
#include "sparse.c"
#undef REAL
#undef BITS
#undef TOP
#undef INFINITE
#undef SUFFIX
#define REAL double
#define BITS int64_t
#define TOP INT64_MAX
#define INFINITE 0x7FF0000000000000
#define SUFFIX f64
#include "sparse.c"

/* --- Python ------------------------------------------------------------------------------------------------------- */

/* None, or rows of the shape and type of v. */
static int take_minus(Buffers *all, PyObject *object, const Py_buffer *v, Py_buffer **minus) {
    *minus = object == Py_None ? NULL : take(all, object, like(v), 2, 0);
    if (!*minus) return object == Py_None;
    return (*minus)->shape[0] == v->shape[0] && (*minus)->shape[1] == v->shape[1];
}

/* The k largest entries of rows v (rows, d), or v - minus where that is not None, in order. Their places go to
 * payload[:, start:]; their values to the rows of `values` (rows, k), or where it is None to the beginning of the payload's.
 * Bad rows, or None. */
FUNCTION(top_k) { /* (v, minus, payload, start, k, low, values) */
    BEGIN(7);
    Py_buffer *v, *minus, *payload, *values = NULL;
    Code c;
    TAKE(v, 0, "fd", 2, 0);
    NEED(take_minus(&all, args[1], v, &minus), "minus and v differ in shape");
    TAKE(payload, 2, "B", 2, 1);
    const int64_t start = PyLong_AsLongLong(args[3]), k = PyLong_AsLongLong(args[4]), low = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred()) goto end;
    const int64_t rows = v->shape[0], d = v->shape[1], row_bytes = payload->shape[1], size = v->itemsize;
    NEED(payload->shape[0] == rows, "v and payload differ in rows");
    NEED(start >= 0 && make_code(&c, d, k, low, row_bytes - start), "start");
    if (args[6] != Py_None) {
        TAKE(values, 6, like(v), 2, 1);
        NEED(values->shape[0] == rows && values->shape[1] == k, "values are k a row");
    } else NEED(start == k * size, "values fill the payload's rows up to start");
    Scratch s = {0};
    char *failed = PyMem_Calloc((size_t)rows + 1, 1);
    int memory = failed && reserve(&s, expected(d, k) + (2 * threads - 1) * (STRETCH + OVERHANG), (size_t)size);
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; memory && i < rows; i++) {
        uint8_t *row = (uint8_t *)payload->buf + i * row_bytes;
        const uint8_t *from = (uint8_t *)v->buf + i * d * size, *less = minus ? (uint8_t *)minus->buf + i * d * size : NULL;
        const int found = is_double(v) ? select_f64((Row_f64){(double *)from, (double *)less}, d, k, &s)
                                       : select_f32((Row_f32){(float *)from, (float *)less}, d, k, &s);
        failed[i] = !found;
        memory = found >= 0;
        if (found <= 0) continue;
        memcpy(values ? (uint8_t *)values->buf + i * k * size : row, s.values, (size_t)(k * size));
        write_places(&c, s.at, row + start);
    }
    Py_END_ALLOW_THREADS;
    drop(&s);
    if (memory) result = failures(failed, rows);
    else PyErr_NoMemory();
    PyMem_Free(failed);
    END;
}

/* (places (rows, k) int64 that rise below d, values (rows, k), out (rows, d), step): out = the values at their places and
 * zeros elsewhere; or, where step is not None, out += step times the values, at their places. */
FUNCTION(scatter) {
    BEGIN(4);
    Py_buffer *places, *values, *out;
    TAKE(places, 0, "q", 2, 0);
    TAKE(values, 1, "fd", 2, 0);
    TAKE(out, 2, like(values), 2, 1);
    const int add = args[3] != Py_None;
    const double step = add ? PyFloat_AsDouble(args[3]) : 0;
    if (PyErr_Occurred()) goto end;
    const int64_t rows = out->shape[0], d = out->shape[1], k = places->shape[1], *at = places->buf;
    NEED(places->shape[0] == rows && values->shape[0] == rows, "places, values and out differ in rows");
    NEED(values->shape[1] == k, "values and places differ in number");
    for (int64_t i = 0; i < rows; i++) NEED(rise(at + i * k, k, d), "places do not rise below d");
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < rows; i++, at += k) {
        if (is_double(out)) scatter_f64(at, (double *)values->buf + i * k, k, (double *)out->buf + i * d, d, add, step);
        else scatter_f32(at, (float *)values->buf + i * k, k, (float *)out->buf + i * d, d, add, (float)step);
    }
    Py_END_ALLOW_THREADS;
    NONE;
    END;
}

FUNCTION(pack_places) { /* (places (rows, k) int64 that rise below d, d, low, out (rows, bytes)) */
    BEGIN(4);
    Py_buffer *places, *out;
    Code c;
    uint32_t *at = NULL;
    TAKE(places, 0, "q", 2, 0);
    TAKE(out, 3, "B", 2, 1);
    const int64_t d = PyLong_AsLongLong(args[1]), low = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) goto end;
    const int64_t rows = places->shape[0], k = places->shape[1], *p = places->buf;
    NEED(out->shape[0] == rows, "places and out differ in rows");
    NEED(make_code(&c, d, k, low, out->shape[1]), "code");
    for (int64_t i = 0; i < rows; i++) NEED(rise(p + i * k, k, d), "places do not rise below d");
    if (!(at = PyMem_Malloc(sizeof *at * (size_t)k))) {
        PyErr_NoMemory();
        goto end;
    }
    for (int64_t i = 0; i < rows; i++, p += k) {
        for (int64_t j = 0; j < k; j++) at[j] = (uint32_t)p[j];
        write_places(&c, at, (uint8_t *)out->buf + i * c.size);
    }
    NONE;
end:
    PyMem_Free(at);
    release(&all);
    return result;
}

FUNCTION(unpack_places) { /* (stream (rows, bytes), d, low, places (rows, k) int64): are they places? */
    BEGIN(4);
    Py_buffer *stream, *places;
    Code c;
    int good = 1;
    TAKE(stream, 0, "B", 2, 0);
    TAKE(places, 3, "q", 2, 1);
    const int64_t d = PyLong_AsLongLong(args[1]), low = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) goto end;
    const int64_t rows = places->shape[0], k = places->shape[1];
    NEED(stream->shape[0] == rows, "stream and places differ in rows");
    NEED(make_code(&c, d, k, low, stream->shape[1]), "code");
    for (int64_t i = 0; good && i < rows; i++)
        good = read_places(&c, (const uint8_t *)stream->buf + i * c.size, (int64_t *)places->buf + i * k);
    result = PyBool_FromLong(good);
    END;
}

FUNCTION(sort_places) { /* (places (rows, k) int64, distinct and below d, d): in increasing order, in place */
    BEGIN(2);
    Py_buffer *places;
    uint64_t *set = NULL;
    TAKE(places, 0, "q", 2, 1);
    const int64_t d = PyLong_AsLongLong(args[1]), rows = places->shape[0], k = places->shape[1];
    if (PyErr_Occurred()) goto end;
    int64_t *at = places->buf, wrong = 0;
    for (int64_t i = 0; i < rows * k; i++) wrong |= at[i] < 0 || at[i] >= d;
    NEED(!wrong, "places are below d");
    if (!(set = PyMem_Calloc((size_t)(d / 64 + 1), sizeof *set))) {
        PyErr_NoMemory();
        goto end;
    }
    for (int64_t i = 0; i < rows; i++, at += k) {
        for (int64_t j = 0; j < k; j++) set[at[j] >> 6] |= (uint64_t)1 << (at[j] & 63);
        int64_t j = 0;
        for (int64_t word = 0; word <= d / 64; set[word++] = 0)
            for (uint64_t bits = set[word]; bits; bits &= bits - 1) at[j++] = 64 * word + __builtin_ctzll(bits);
        NEED(j == k, "places are distinct");
    }
    NONE;
end:
    PyMem_Free(set);
    release(&all);
    return result;
}

/* (v (rows, d), minus as for top_k, payload (rows, 4 + ceil(d/8)), mean): bad rows or None. The scale of a row is ‖v‖₁/d where
 * mean is true, else ‖v‖_∞/2. */
FUNCTION(sign_encode) {
    BEGIN(4);
    Py_buffer *v, *minus, *payload;
    TAKE(v, 0, "fd", 2, 0);
    NEED(take_minus(&all, args[1], v, &minus), "minus and v differ in shape");
    TAKE(payload, 2, "B", 2, 1);
    const int mean = PyObject_IsTrue(args[3]);
    const int64_t rows = v->shape[0], d = v->shape[1], row_bytes = payload->shape[1];
    NEED(payload->shape[0] == rows, "v and payload differ in rows");
    NEED(d >= 1 && row_bytes == 4 + ceil_div(d, 8), "bytes of a row");
    char *failed = PyMem_Calloc((size_t)rows + 1, 1);
    if (!failed) {
        PyErr_NoMemory();
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < rows; i++) {
        uint8_t *to = (uint8_t *)payload->buf + i * row_bytes;
        const int64_t at = i * d * v->itemsize;
        const void *row = (uint8_t *)v->buf + at, *less = minus ? (uint8_t *)minus->buf + at : NULL;
        failed[i] = is_double(v) ? !signs_f64(row, less, d, mean, to) : !signs_f32(row, less, d, mean, to);
    }
    Py_END_ALLOW_THREADS;
    result = failures(failed, rows);
    PyMem_Free(failed);
    END;
}

FUNCTION(sign_decode) { /* (payload, out (rows, d)): are all scales in range? */
    BEGIN(2);
    Py_buffer *payload, *out;
    int good = 1;
    TAKE(payload, 0, "B", 2, 0);
    TAKE(out, 1, "fd", 2, 1);
    const int64_t rows = out->shape[0], d = out->shape[1], row_bytes = payload->shape[1];
    NEED(payload->shape[0] == rows, "payload and out differ in rows");
    NEED(d >= 1 && row_bytes == 4 + ceil_div(d, 8), "bytes of a row");
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; good && i < rows; i++) {
        const uint8_t *from = (const uint8_t *)payload->buf + i * row_bytes;
        float s;
        memcpy(&s, from, 4);
        good = s == 0 || (s >= SMALLEST_SCALE && s <= LARGEST_SCALE);
        if (!good) continue;
        if (is_double(out)) unsign_f64(from + 4, (double)s, (double *)out->buf + i * d, d);
        else unsign_f32(from + 4, s, (float *)out->buf + i * d, d);
    }
    Py_END_ALLOW_THREADS;
    result = PyBool_FromLong(good);
    END;
}

static PyMethodDef methods[] = {METHOD(use_threads),   METHOD(top_k),       METHOD(scatter),     METHOD(pack_places),
                                METHOD(unpack_places), METHOD(sort_places), METHOD(sign_encode), METHOD(sign_decode),
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "decentral.kernels._sparse",
                                    .m_doc = "Sparse and sign messages in C; NumPy twins stand where they are called.",
                                    .m_size = -1,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit__sparse(void) {
#ifdef HAVE_AVX2
    __builtin_cpu_init();
    avx2 = __builtin_cpu_supports("avx2");
    fill_lanes();
#endif
    return PyModule_Create(&module);
}

#else /* --- for REAL = float and double ---------------------------------------------------------------------------- */

typedef BITS NAME(bits) __attribute__((may_alias));

INLINE NAME(bits) NAME(magnitude)(const REAL *v) { return *(const NAME(bits) *)v & (NAME(bits))TOP; }

/* A row v, or v - minus, which is taken a part at a time. */
typedef struct {
    const REAL *v, *minus;
} NAME(Row);

CLONES static void NAME(subtract)(const REAL *v, const REAL *minus, int64_t n, REAL *restrict out) {
    for (int64_t e = 0; e < n; e++) out[e] = v[e] - minus[e];
}

/* Entries start..start + n, in place or in `room`. */
INLINE const REAL *NAME(part)(NAME(Row) r, int64_t start, int64_t n, REAL *room) {
    if (!r.minus) return r.v + start;
    NAME(subtract)(r.v + start, r.minus + start, n, room);
    return room;
}

CLONES static BITS NAME(largest)(const REAL *v, int64_t n) {
    BITS m = 0;
    for (int64_t e = 0; e < n; e++) {
        const BITS a = NAME(magnitude)(v + e);
        m = a > m ? a : m;
    }
    return m;
}

/* Magnitudes that are at least t. */
INLINE int64_t NAME(count)(const REAL *v, int64_t n, BITS t) {
    int64_t total = 0;
    for (int64_t start = 0; start < n; start += 1 << 20) {
        const int64_t end = least(n - start, 1 << 20);
        BITS c = 0;
        for (int64_t e = 0; e < end; e++) c += NAME(magnitude)(v + start + e) >= t;
        total += c;
    }
    return total;
}

CLONES static int64_t NAME(at_least)(const REAL *v, int64_t n, BITS t) { return NAME(count)(v, n, t); }

/* A t with lo <= t < hi such that the k largest are those above t and the first *ties of magnitude t, or all of these.
 * At least k magnitudes are at least lo, and fewer than k are hi or more. */
CLONES static BITS NAME(bisect)(const REAL *v, int64_t n, int64_t k, BITS lo, BITS hi, int64_t above, int64_t *ties) {
    while (hi - lo > 1) {
        const BITS middle = lo + (hi - lo) / 2;
        const int64_t c = NAME(count)(v, n, middle);
        if (c == k) {
            *ties = INT64_MAX; /* all */
            return middle;
        }
        if (c > k) lo = middle;
        else hi = middle, above = c;
    }
    *ties = k - above;
    return lo;
}

/* The index after number `ties` of the magnitudes equal to t. */
CLONES static int64_t NAME(after)(const REAL *v, int64_t n, BITS t, int64_t ties) {
    for (int64_t start = 0; start < n; start += TILE) {
        const int64_t end = least(n - start, TILE);
        BITS c = 0;
        for (int64_t e = 0; e < end; e++) c += NAME(magnitude)(v + start + e) == t;
        if (c < ties) {
            ties -= c;
            continue;
        }
        for (int64_t e = start;; e++)
            if (NAME(magnitude)(v + e) == t && !--ties) return e + 1;
    }
    return n;
}

/* Entries with (magnitude ^ flip) >= t, in order: values to `out` and places to `at`, an entry's place being from[e], or
 * first + e. Returns their number; writes up to OVERHANG more. `out` may be v, `at` may be `from`. */
INLINE int64_t NAME(sift_plain)(const REAL *v, const uint32_t *from, int64_t first, int64_t n, BITS t, BITS flip, REAL *out,
                                uint32_t *at) {
    int64_t m = 0;
    for (int64_t e = 0; e < n; e++) {
        const int passes = (NAME(magnitude)(v + e) ^ flip) >= t;
        out[m] = v[e];
        if (at) at[m] = from ? from[e] : (uint32_t)(first + e);
        m += passes;
    }
    return m;
}

#ifdef HAVE_AVX2
AVX2 INLINE int64_t NAME(sift_avx2)(const REAL *v, const uint32_t *from, int64_t first, int64_t n, BITS t, BITS flip, REAL *out,
                                    uint32_t *at) {
    enum { LENGTH = 32 / sizeof(REAL) };
    const __m256i magnitude = PASTE(SPREAD, SUFFIX)(TOP), below = PASTE(SPREAD, SUFFIX)(t - 1);
    const __m256i flips = PASTE(SPREAD, SUFFIX)(flip);
    int64_t m = 0, e = 0;
    for (; e + 4 * LENGTH <= n; e += 4 * LENGTH) {
        __m256i x[4], pass[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            x[j] = _mm256_loadu_si256((const __m256i *)(v + e + j * LENGTH));
            pass[j] = PASTE(GREATER, SUFFIX)(_mm256_xor_si256(_mm256_and_si256(x[j], magnitude), flips), below);
        }
        const __m256i any = _mm256_or_si256(_mm256_or_si256(pass[0], pass[1]), _mm256_or_si256(pass[2], pass[3]));
        if (_mm256_testz_si256(any, any)) continue;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const unsigned mask = PASTE(MASK, SUFFIX)(pass[j]);
            const int64_t here = e + j * LENGTH;
            NAME(squeeze)(x[j], mask, from ? from + here : NULL, (uint32_t)(first + here), out + m, at ? at + m : NULL);
            m += __builtin_popcount(mask);
        }
    }
    return m + NAME(sift_plain)(v + e, from ? from + e : NULL, first + e, n - e, t, flip, out + m, at ? at + m : NULL);
}
AVX2 static int64_t NAME(keep_avx2)(const REAL *v, int64_t first, int64_t n, BITS t, REAL *out, uint32_t *at) {
    return NAME(sift_avx2)(v, NULL, first, n, t, 0, out, at);
}
AVX2 static int64_t NAME(keep_from_avx2)(const REAL *v, const uint32_t *from, int64_t n, BITS t, REAL *out, uint32_t *at) {
    return NAME(sift_avx2)(v, from, 0, n, t, 0, out, at);
}
AVX2 static int64_t NAME(below_avx2)(const REAL *v, int64_t n, BITS t, REAL *out) {
    return NAME(sift_avx2)(v, NULL, 0, n, TOP ^ (t - 1), TOP, out, NULL);
}
#define SIFT(name, ...) \
    if (avx2) return NAME(name##_avx2)(__VA_ARGS__)
#else
#define SIFT(name, ...)
#endif

/* Entries of magnitude t or more of v, whose first entry has the place `first`. */
static int64_t NAME(keep)(const REAL *v, int64_t first, int64_t n, BITS t, REAL *out, uint32_t *at) {
    SIFT(keep, v, first, n, t, out, at);
    return NAME(sift_plain)(v, NULL, first, n, t, 0, out, at);
}

static int64_t NAME(keep_from)(const REAL *v, const uint32_t *from, int64_t n, BITS t, REAL *out, uint32_t *at) {
    SIFT(keep_from, v, from, n, t, out, at);
    return NAME(sift_plain)(v, from, 0, n, t, 0, out, at);
}

/* Values of magnitude below t. */
static int64_t NAME(below)(const REAL *v, int64_t n, BITS t, REAL *out) {
    SIFT(below, v, n, t, out);
    return NAME(sift_plain)(v, NULL, 0, n, TOP ^ (t - 1), TOP, out, NULL);
}
#undef SIFT

/* What is above t, and the first `ties` of magnitude t, in order: their number. Entries and places from v and `from`, or
 * from v alone, whose first entry has the place `first`. */
static int64_t NAME(emit)(const REAL *v, const uint32_t *from, int64_t first, int64_t n, BITS t, int64_t ties, REAL *out,
                          uint32_t *at) {
    const int64_t stop = !ties ? 0 : ties < n ? NAME(after)(v, n, t, ties) : n, rest = n - stop;
    const int64_t m = from ? NAME(keep_from)(v, from, stop, t, out, at) : NAME(keep)(v, first, stop, t, out, at);
    return m + (from ? NAME(keep_from)(v + stop, from + stop, rest, t + 1, out + m, at + m)
                     : NAME(keep)(v + stop, first + stop, rest, t + 1, out + m, at + m));
}

/* lo and hi that bracket the k-th largest magnitude, most likely: from a sample of groups, one in each part of the row. */
static void NAME(guess)(NAME(Row) r, int64_t d, int64_t k, REAL *sample, BITS *lo, BITS *hi) {
    const int64_t groups = groups_of(d), part = d / groups, size = groups * GROUP;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t shift = (int64_t)((uint32_t)g * 2654435761u >> 8) % (part - GROUP + 1);
        REAL room[GROUP];
        memcpy(sample + g * GROUP, NAME(part)(r, g * part + shift, GROUP, room), sizeof room);
    }
    int64_t low_rank, high_rank, ties;
    ranks(d, k, &low_rank, &high_rank);
    *lo = low_rank <= size ? NAME(bisect)(sample, size, low_rank, 0, INFINITE, 0, &ties) : 0;
    *hi = high_rank >= 1 ? NAME(bisect)(sample, size, high_rank, *lo, INFINITE, 0, &ties) + 1 : INFINITE;
}

/* The same for certain, by a histogram of the leading digits, and of further ones while many entries share them. Returns
 * how many are at least lo. */
static int64_t NAME(search)(NAME(Row) r, int64_t d, int64_t k, BITS *lo, BITS *hi) {
    const int64_t wanted = k;
    int64_t kept = d;
    *lo = 0;
    for (int shift = 8 * (int)sizeof(REAL) - 1, next; shift > 0; shift = next) {
        next = shift > 11 ? shift - 11 : 0;
        int64_t counts[DIGITS] = {0};
        for (int64_t start = 0; start < d; start += STRETCH) {
            const int64_t n = least(d - start, STRETCH);
            REAL room[STRETCH];
            const REAL *v = NAME(part)(r, start, n, room);
            for (int64_t e = 0; e < n; e++) {
                const BITS a = NAME(magnitude)(v + e);
                if (a >> shift == *lo >> shift) counts[a >> next & (((BITS)1 << (shift - next)) - 1)]++;
            }
        }
        int digit = DIGITS - 1;
        while (counts[digit] < k) k -= counts[digit--];
        *lo += (BITS)digit << next;
        *hi = *lo + ((BITS)1 << next);
        kept = wanted - k + counts[digit];
        if (counts[digit] <= d / 16) break;
    }
    return kept;
}

/* The largest magnitude; counts how many are above t, and how many are t. n is at most STRETCH. */
CLONES static BITS NAME(tally)(const REAL *v, int64_t n, BITS t, int64_t *above, int64_t *equal) {
    BITS most = 0, more = 0, same = 0;
    for (int64_t e = 0; e < n; e++) {
        const BITS a = NAME(magnitude)(v + e);
        more += a > t, same += a == t;
        most = a > most ? a : most;
    }
    *above += more, *equal += same;
    return most;
}

/* If t is the k-th largest magnitude, the k largest entries into the scratch. 0 where the row is not finite, -1 where t is
 * another one. */
static int NAME(tied)(NAME(Row) r, int64_t d, int64_t k, BITS t, Scratch *s) {
    int64_t above = 0, equal = 0, m = 0;
    REAL room[STRETCH];
    for (int64_t e = 0; e < d; e += STRETCH) {
        const int64_t n = least(d - e, STRETCH);
        if (NAME(tally)(NAME(part)(r, e, n, room), n, t, &above, &equal) >= INFINITE) return 0;
    }
    if (above >= k || above + equal < k) return -1;
    for (int64_t e = 0, ties = k - above; e < d; e += STRETCH) {
        const int64_t n = least(d - e, STRETCH);
        const REAL *v = NAME(part)(r, e, n, room);
        above = equal = 0;
        if (ties) NAME(tally)(v, n, t, &above, &equal);
        m += NAME(emit)(v, NULL, e, n, t, ties < equal ? ties : equal ? INT64_MAX : 0, (REAL *)s->values + m, s->at + m);
        ties -= least(ties, equal);
    }
    return 1;
}

/* What threads share: each keeps what is at least t of some parts of a row, in the room that a part has in the scratch. */
typedef struct {
    NAME(Row) r;
    BITS t;
    Scratch *s;
    int64_t width, room, *kept;
    int full;
} NAME(Filter);

static void NAME(filter_part)(void *context, const Part *part) {
    NAME(Filter) *f = context;
    const int64_t number = part->begin ? part->begin / f->width : 0, end = part->end;
    REAL *values = (REAL *)f->s->values + number * f->room, room[STRETCH];
    uint32_t *at = f->s->at + number * f->room;
    int64_t m = 0, e = part->begin;
    for (; e < end && m + STRETCH + OVERHANG <= f->room; e += STRETCH) {
        const int64_t n = least(end - e, STRETCH);
        m += NAME(keep)(NAME(part)(f->r, e, n, room), e, n, f->t, values + m, at + m);
    }
    if (e < end) __atomic_store_n(&f->full, 1, __ATOMIC_RELAXED);
    f->kept[number] = m;
}

/* The entries of magnitude t or more into the scratch, in order: their number, or -1 where there is no room for them. */
static int64_t NAME(filter)(NAME(Row) r, int64_t d, BITS t, Scratch *s) {
    int64_t kept[2 * MOST_THREADS];
    for (int count = threads_for(d, MUCH);; count = 1) { /* where parts differ much, one may need more than its room */
        const int64_t width = count == 1 ? d : ceil_div(d, 2 * count * STRETCH) * STRETCH;
        const int64_t parts = count == 1 ? 1 : ceil_div(d, width);
        NAME(Filter) f = {r, t, s, width, parts == 1 ? s->capacity : s->capacity / parts, kept, 0};
        share(count, 1, 0, d, width, NAME(filter_part), &f);
        if (f.full && count == 1) return -1;
        if (f.full) continue;
        int64_t m = kept[0];
        for (int64_t i = 1; i < parts; m += kept[i++]) {
            memmove((REAL *)s->values + m, (REAL *)s->values + i * f.room, sizeof(REAL) * (size_t)kept[i]);
            memmove(s->at + m, s->at + i * f.room, sizeof *s->at * (size_t)kept[i]);
        }
        return m;
    }
}

/* The k largest entries of a row into the scratch. 0 where it is not finite, -1 where there is no memory. */
static int NAME(select)(NAME(Row) r, int64_t d, int64_t k, Scratch *s) {
    BITS lo, hi;
    int64_t ties;
    REAL room[STRETCH];
    if (d <= SHORT) {
        const REAL *v = NAME(part)(r, 0, d, room);
        hi = NAME(largest)(v, d);
        if (hi >= INFINITE) return 0;
        lo = NAME(bisect)(v, d, k, 0, hi + 1, 0, &ties);
        NAME(emit)(v, NULL, 0, d, lo, ties, s->values, s->at);
        return 1;
    }
    for (int certain = 0; certain < 2; certain++) {
        if (!certain) NAME(guess)(r, d, k, s->spare, &lo, &hi);
        else {
            const int64_t kept = NAME(search)(r, d, k, &lo, &hi);
            if (hi - lo > 1 && !reserve(s, kept + 2 * threads * (STRETCH + OVERHANG), sizeof(REAL))) return -1;
        }
        REAL *values = s->values;
        const int64_t m = hi - lo > 1 ? NAME(filter)(r, d, lo, s) : -1;
        if (m < 0) { /* one magnitude in the bracket, or more entries than there is room for: is it that one? */
            const int found = NAME(tied)(r, d, k, lo, s);
            if (found >= 0) return found;
            continue;
        }
        if (NAME(largest)(values, m) >= INFINITE) return 0;
        if (m < k) continue;
        const int64_t above = NAME(at_least)(values, m, hi);
        BITS t;
        if (above >= k) t = NAME(bisect)(values, m, k, hi, INFINITE, 0, &ties);
        else t = NAME(bisect)(s->spare, NAME(below)(values, m, hi, s->spare), k - above, lo, hi, 0, &ties);
        NAME(emit)(values, s->at, 0, m, t, ties, values, s->at);
        return 1;
    }
    return 0; /* not reached: a certain bracket holds */
}

static void NAME(scatter)(const int64_t *at, const REAL *values, int64_t k, REAL *out, int64_t d, int add, REAL step) {
    if (add) {
        for (int64_t i = 0; i < k; i++) out[at[i]] += step * values[i];
        return;
    }
    int64_t done = 0;
    for (int64_t i = 0; i < k; i += BATCH) { /* what was just zeroed is still in the first cache */
        const int64_t count = least(k - i, BATCH), end = at[i + count - 1] + 1;
        memset(out + done, 0, sizeof(REAL) * (size_t)(end - done));
        for (int64_t j = i; j < i + count; j++) out[at[j]] = values[j];
        done = end;
    }
    memset(out + done, 0, sizeof(REAL) * (size_t)(d - done));
}

/* --- Signs ----------------------------------------------------------------------------------------------------------- */

#ifdef HAVE_AVX2
AVX2 static void NAME(pack_signs_avx2)(const REAL *v, uint8_t *out) { /* of a tile */
    for (int e = 0; e < TILE; e += 8, v += 8)
        *out++ = (uint8_t)(sizeof(REAL) == 4 ? PASTE(POSITIVE, SUFFIX)(v)
                                             : PASTE(POSITIVE, SUFFIX)(v) | PASTE(POSITIVE, SUFFIX)(v + 4) << 4);
}
#endif

static void NAME(pack_signs)(const REAL *v, int64_t n, uint8_t *out) {
#ifdef HAVE_AVX2
    if (avx2 && n == TILE) {
        NAME(pack_signs_avx2)(v, out);
        return;
    }
#endif
    for (int64_t start = 0; start < n; start += 8) {
        unsigned byte = 0;
        for (int64_t e = start; e < n && e < start + 8; e++) byte |= (unsigned)(v[e] >= 0) << (e - start);
        *out++ = (uint8_t)byte;
    }
}

/* Magnitudes of a tile added in double, in the order of `tree_sum`. */
INLINE double NAME(sum_of_tile)(const REAL *v, int64_t n) {
    double acc[LANES] = {0};
    int64_t e = 0;
    for (; e + LANES <= n; e += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += fabs((double)v[e + l]);
    for (int l = 0; e < n; e++, l++) acc[l] += fabs((double)v[e]);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) acc[l] += acc[l + half];
    return acc[0];
}

/* A row: its scale, then a bit an entry. 0 where there is no scale. A tile stays in the first cache for all of it. */
CLONES static int NAME(signs)(const REAL *v, const REAL *minus, int64_t n, int mean, uint8_t *out) {
    double partial[64], m;
    REAL tile[TILE];
    int depth = 0;
    BITS top = 0;
    for (int64_t t = 0; t * TILE < n; t++) {
        const int64_t size = least(n - t * TILE, TILE);
        const REAL *x = v + t * TILE;
        if (minus) {
            for (int64_t e = 0; e < size; e++) tile[e] = x[e] - minus[t * TILE + e];
            x = tile;
        }
        NAME(pack_signs)(x, size, out + 4 + t * TILE / 8);
        if (mean) {
            partial[depth++] = NAME(sum_of_tile)(x, size);
            depth = add_by_pairs(partial, depth, t + 1);
        } else {
            for (int64_t e = 0; e < size; e++) {
                const BITS a = NAME(magnitude)(x + e);
                top = a > top ? a : top;
            }
        }
    }
    if (mean) {
        m = add_rest(partial, depth) / (double)n;
    } else {
        REAL largest;
        memcpy(&largest, &top, sizeof largest);
        m = (double)largest / 2;
    }
    float s;
    if (!scale_above(m, &s)) return 0;
    memcpy(out, &s, 4);
    return 1;
}

CLONES static void NAME(unsign)(const uint8_t *in, REAL s, REAL *out, int64_t n) {
    const REAL value[2] = {-s, s};
    int64_t e = 0;
    for (; e + LANES <= n; e += LANES) {
        uint32_t word;
        memcpy(&word, in + e / 8, 4);
        for (int l = 0; l < LANES; l++) out[e + l] = word & (uint32_t)1 << l ? s : -s;
    }
    for (; e < n; e++) out[e] = value[in[e >> 3] >> (e & 7) & 1];
}

#endif
