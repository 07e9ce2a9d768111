/* What the compiled kernels share: checked buffers from Python, clones for wider vectors, the range of scales. */
#ifndef DECENTRAL_BUFFERS_H
#define DECENTRAL_BUFFERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "messages are little-endian; NumPy serves this machine"
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(DECENTRAL_NO_CLONES)
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#define HAVE_AVX2 1
#define AVX2 __attribute__((target("avx2")))
#include <immintrin.h>
#else
#define CLONES
#endif

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define NAME(x) PASTE(x, SUFFIX)

enum { LANES = 32, TILE = 1024, MAX_BUFFERS = 128 };
static const float SMALLEST_SCALE = 0x1p-110f, LARGEST_SCALE = 0x1p126f;

/* Sums by pairs as a binary counter: after `done` terms, two that are over equally many become one; in the end all do. */
INLINE int add_by_pairs(double *partial, int depth, int64_t done) {
    for (; !(done & 1); done >>= 1, depth--) partial[depth - 2] += partial[depth - 1];
    return depth;
}

INLINE double add_rest(double *partial, int depth) {
    while (depth > 1) depth--, partial[depth - 1] += partial[depth];
    return depth ? partial[0] : 0.0;
}

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The smallest float at or above m in {0} or the range of scales; 0 where there is none. */
INLINE int scale_above(double m, float *scale) {
    float s = (float)m;
    if ((double)s < m) s = nextafterf(s, INFINITY);
    if (s > 0 && s < SMALLEST_SCALE) s = SMALLEST_SCALE;
    *scale = s;
    return s <= LARGEST_SCALE; /* false for NaN */
}

typedef struct {
    int count;
    Py_buffer b[MAX_BUFFERS];
} Buffers;

static void release(Buffers *all) {
    while (all->count) PyBuffer_Release(&all->b[--all->count]);
}

/* The next buffer: contiguous, of one of the type characters in `types` (int64 is q), `ndim` dimensions; with NULL, of any. */
static Py_buffer *take(Buffers *all, PyObject *object, const char *types, int ndim, int writable) {
    Py_buffer *b = &all->b[all->count];
    if (all->count == MAX_BUFFERS) {
        PyErr_SetString(PyExc_ValueError, "too many arrays in one call");
        return NULL;
    }
    if (PyObject_GetBuffer(object, b, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0))) return NULL;
    all->count++;
    if (!types) return b;
    char type = b->format && b->format[0] && !b->format[1] ? b->format[0] : 0;
    if (type == 'l' && sizeof(long) == 8) type = 'q';
    if (!type || !strchr(types, type) || b->ndim != ndim) {
        PyErr_Format(PyExc_ValueError, "argument %d: needs %d dimensions of type %s, has %d of type %s", all->count, ndim,
                     types, b->ndim, b->format ? b->format : "?");
        return NULL;
    }
    return b;
}

static inline int require(int truth, const char *what) {
    if (!truth && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, what);
    return truth;
}

static inline int is_double(const Py_buffer *b) { return b->itemsize == 8; }

static inline const char *like(const Py_buffer *b) { return is_double(b) ? "d" : "f"; }

/* The list of the rows that failed, or None where none did. */
static inline PyObject *failures(const char *failed, int64_t rows) {
    if (rows < 1 || !memchr(failed, 1, (size_t)rows)) return Py_NewRef(Py_None);
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list && i < rows; i++) {
        PyObject *number = failed[i] ? PyLong_FromLongLong(i) : NULL;
        if (failed[i] && (!number || PyList_Append(list, number))) Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

#define FUNCTION(name) static PyObject *name(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t nargs)
#define BEGIN(expected) BEGIN_WITH(expected, 0)
#define BEGIN_WITH(expected, optional) /* so many arguments more, or none */  \
    Buffers all;                                                              \
    all.count = 0;                                                            \
    PyObject *result = NULL;                                                  \
    if (nargs != (expected) && nargs != (expected) + (optional)) {            \
        PyErr_SetString(PyExc_TypeError, "wrong number of arguments");        \
        return NULL;                                                          \
    }
#define NEED(truth, what) \
    if (!require((truth), (what))) goto end
#define TAKE(name, index, types, ndim, writable)                        \
    name = take(&all, args[index], (types), (ndim), (writable));        \
    if (!name) goto end
#define END          \
    end:             \
    release(&all);   \
    return result
#define NONE result = Py_NewRef(Py_None)
#define METHOD(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

#endif
