/* The buffers of an exchange: rows of payloads into them and out of them, the check of their headers, and in memory that
 * processes share, the word that says what has been posted.
 *
 * A table says what to copy: an int64 row of (source, from, target, to, bytes) for each piece, offsets in bytes.
 */
#ifdef __linux__
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { MOST = 128, COLUMNS = 5, NUMBER = 12, SLEEPERS = 16, YIELDS = 8 };

typedef struct {
    Py_buffer b[MOST];
    int count;
} Held;

static Py_buffer *take(Held *held, PyObject *object, int writable) {
    Py_buffer *b = &held->b[held->count];
    if (held->count == MOST) {
        PyErr_SetString(PyExc_ValueError, "too many arrays in one exchange");
        return NULL;
    }
    if (PyObject_GetBuffer(object, b, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0))) return NULL;
    held->count++;
    return b;
}

static int take_all(Held *held, PyObject *tuple, int writable) {
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "needs a tuple of arrays");
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
        if (!take(held, PyTuple_GET_ITEM(tuple, i), writable)) return 0;
    return 1;
}

static void release(Held *held) {
    while (held->count) PyBuffer_Release(&held->b[--held->count]);
}

/* The pieces of a table, from the `sources` arrays that follow it in `held` to the `targets` behind these. */
static int copy(const Held *held, int64_t sources, int64_t targets) {
    const Py_buffer *table = &held->b[0], *from = table + 1, *to = from + sources;
    if (table->itemsize != 8 || table->len % (8 * COLUMNS)) {
        PyErr_SetString(PyExc_ValueError, "the table needs rows of five int64");
        return 0;
    }
    const int64_t *row = table->buf, *end = row + table->len / 8;
    for (const int64_t *r = row; r < end; r += COLUMNS) {
        const int64_t bytes = r[4];
        if (r[0] < 0 || r[0] >= sources || r[2] < 0 || r[2] >= targets || bytes < 0 || r[1] < 0 || r[3] < 0 ||
            r[1] > from[r[0]].len - bytes || r[3] > to[r[2]].len - bytes) {
            PyErr_SetString(PyExc_ValueError, "a piece lies outside of its array");
            return 0;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (const int64_t *r = row; r < end; r += COLUMNS)
        memcpy((char *)to[r[2]].buf + r[3], (const char *)from[r[0]].buf + r[1], (size_t)r[4]);
    Py_END_ALLOW_THREADS
    return 1;
}

static int arguments(Py_ssize_t given, Py_ssize_t expected) {
    if (given != expected) PyErr_SetString(PyExc_TypeError, "wrong number of arguments");
    return given == expected;
}

static PyObject *move(PyObject *self, PyObject *const *args, Py_ssize_t nargs) { /* (table, sources, targets) */
    Held held = {.count = 0};
    PyObject *result = NULL;
    if (!arguments(nargs, 3) || !take(&held, args[0], 0) || !take_all(&held, args[1], 0)) goto done;
    const int64_t sources = held.count - 1;
    if (take_all(&held, args[2], 1) && copy(&held, sources, held.count - 1 - sources)) result = Py_NewRef(Py_None);
done:
    release(&held);
    return result;
}

/* The first index of the offsets (int64) at which the buffer does not hold the header; their number where none is. */
static int64_t first_unlike(const Py_buffer *buffer, const Py_buffer *offsets, const Py_buffer *header) {
    const int64_t *offset = offsets->buf, most = buffer->len - header->len;
    int64_t i = 0;
    for (; i < offsets->len / 8; i++)
        if (offset[i] < 0 || offset[i] > most || memcmp((const char *)buffer->buf + offset[i], header->buf, (size_t)header->len))
            break;
    return i;
}

static PyObject *unlike(PyObject *self, PyObject *const *args, Py_ssize_t nargs) { /* (buffer, offsets, header): the first index */
    Held held = {.count = 0};
    PyObject *result = NULL;
    const Py_buffer *buffer, *offsets, *header;
    if (arguments(nargs, 3) && (buffer = take(&held, args[0], 0)) && (offsets = take(&held, args[1], 0)) &&
        (header = take(&held, args[2], 0)))
        result = PyLong_FromLongLong(first_unlike(buffer, offsets, header));
    release(&held);
    return result;
}

#ifdef __linux__
/* Shared memory. A place begins with a header, 16 bytes whose last four are the number of what was posted there, then a
 * count of the processes that sleep until this number changes. The number is written last; what it announces lies before it. */
static long futex(const _Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *most) {
    return syscall(SYS_futex, word, operation, value, most, NULL, 0);
}

static int place(const Py_buffer *buffer, int64_t at) {
    if (at >= 0 && at % 64 == 0 && at <= buffer->len - 64 && (uintptr_t)buffer->buf % 64 == 0) return 1;
    PyErr_SetString(PyExc_ValueError, "a place outside of the buffer, or not aligned to 64 bytes");
    return 0;
}

/* post(table, sources, buffer, at, header): copy pieces into the buffer, announce them in the header at `at`, and wake who
 * sleeps on it; returns the number that was there. */
static PyObject *post(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Held held = {.count = 0};
    PyObject *result = NULL;
    if (!arguments(nargs, 5) || !take(&held, args[0], 0) || !take_all(&held, args[1], 0)) goto done;
    const int64_t sources = held.count - 1, at = PyLong_AsLongLong(args[3]);
    const Py_buffer *buffer = take(&held, args[2], 1), *from;
    if (PyErr_Occurred() || !place(buffer, at) || !copy(&held, sources, 1) || !(from = take(&held, args[4], 0))) goto done;
    if (from->len != SLEEPERS) {
        PyErr_SetString(PyExc_ValueError, "a header has 16 bytes");
        goto done;
    }
    char *header = (char *)buffer->buf + at;
    _Atomic uint32_t *word = (_Atomic uint32_t *)(header + NUMBER), *sleepers = (_Atomic uint32_t *)(header + SLEEPERS);
    uint32_t number;
    memcpy(header, from->buf, NUMBER);
    memcpy(&number, (const char *)from->buf + NUMBER, sizeof number);
    result = PyLong_FromUnsignedLong(atomic_exchange(word, number));
    if (atomic_load(sleepers)) futex(word, FUTEX_WAKE, INT32_MAX, NULL);
done:
    release(&held);
    return result;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* wait(buffer, offsets, header, was, spins, seconds): until the numbers at all offsets (int64) are other than `was`; then the
 * first index at which the header is another, or their number. Looks `spins` times, lets others have the core YIELDS times,
 * which is often enough and cheaper than to sleep and be woken, then sleeps; None after `seconds` of sleep. */
static PyObject *wait_for(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Held held = {.count = 0};
    int arrived = 1;
    PyObject *result = NULL;
    const Py_buffer *buffer, *all, *expected;
    if (!arguments(nargs, 6) || !(buffer = take(&held, args[0], 1)) || !(all = take(&held, args[1], 0)) ||
        !(expected = take(&held, args[2], 0)))
        goto done;
    const uint32_t was = (uint32_t)PyLong_AsUnsignedLongMask(args[3]);
    const long long spins = PyLong_AsLongLong(args[4]);
    const double seconds = PyFloat_AsDouble(args[5]);
    if (PyErr_Occurred()) goto done;
    const int64_t *offset = all->buf, offsets = all->len / 8;
    for (int64_t i = 0; i < offsets; i++)
        if (!place(buffer, offset[i])) goto done;
    Py_BEGIN_ALLOW_THREADS
    struct timespec end, now;
    int timed = 0;
    for (int64_t i = 0; i < offsets && arrived; i++) {
        char *header = (char *)buffer->buf + offset[i];
        _Atomic uint32_t *word = (_Atomic uint32_t *)(header + NUMBER), *sleepers = (_Atomic uint32_t *)(header + SLEEPERS);
        for (long long s = 0; s < spins && atomic_load_explicit(word, memory_order_acquire) == was; s++) relax();
        for (int s = 0; s < YIELDS && atomic_load_explicit(word, memory_order_acquire) == was; s++) sched_yield();
        if (atomic_load_explicit(word, memory_order_acquire) != was) continue;
        if (!timed++) {
            clock_gettime(CLOCK_MONOTONIC, &end);
            const int64_t until = (int64_t)end.tv_nsec + (int64_t)(seconds * 1e9);
            end.tv_sec += until / 1000000000, end.tv_nsec = until % 1000000000;
        }
        atomic_fetch_add(sleepers, 1);
        while (arrived && atomic_load(word) == was) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            int64_t left = (int64_t)(end.tv_sec - now.tv_sec) * 1000000000 + (end.tv_nsec - now.tv_nsec);
            if (left <= 0) {
                arrived = 0;
                break;
            }
            const struct timespec most = {left / 1000000000, left % 1000000000};
            futex(word, FUTEX_WAIT, was, &most);
        }
        atomic_fetch_sub(sleepers, 1);
    }
    Py_END_ALLOW_THREADS
    result = arrived ? PyLong_FromLongLong(first_unlike(buffer, all, expected)) : Py_NewRef(Py_None);
done:
    release(&held);
    return result;
}
#endif

static PyMethodDef methods[] = {{"move", (PyCFunction)(void (*)(void))move, METH_FASTCALL, NULL},
                                {"unlike", (PyCFunction)(void (*)(void))unlike, METH_FASTCALL, NULL},
#ifdef __linux__
                                {"post", (PyCFunction)(void (*)(void))post, METH_FASTCALL, NULL},
                                {"wait", (PyCFunction)(void (*)(void))wait_for, METH_FASTCALL, NULL},
#endif
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "decentral.kernels._wire",
                                    .m_size = 0,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit__wire(void) { return PyModule_Create(&module); }
