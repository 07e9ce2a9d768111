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

enum { MOST = 24, COLUMNS = 5, NUMBER = 12, SLEEPERS = 16, YIELDS = 8 };

static int take(PyObject *object, Py_buffer *into, int writable) {
    return PyObject_GetBuffer(object, into, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0));
}

static PyObject *move(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Py_buffer held[MOST];
    int count = 0;
    PyObject *result = NULL;
    if (nargs != 3 || !PyTuple_Check(args[1]) || !PyTuple_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "move(table, sources, targets): an array and two tuples");
        return NULL;
    }
    const Py_ssize_t sources = PyTuple_GET_SIZE(args[1]), targets = PyTuple_GET_SIZE(args[2]);
    if (sources + targets >= MOST) {
        PyErr_SetString(PyExc_ValueError, "too many arrays in one exchange");
        return NULL;
    }
    if (take(args[0], &held[0], 0)) return NULL;
    count = 1;
    for (Py_ssize_t i = 0; i < sources + targets; i++, count++)
        if (take(i < sources ? PyTuple_GET_ITEM(args[1], i) : PyTuple_GET_ITEM(args[2], i - sources), &held[count],
                 i >= sources))
            goto done;
    if (held[0].itemsize != 8 || held[0].len % (8 * COLUMNS)) {
        PyErr_SetString(PyExc_ValueError, "the table needs rows of five int64");
        goto done;
    }
    const int64_t *row = held[0].buf, *end = row + held[0].len / 8;
    for (const int64_t *r = row; r < end; r += COLUMNS) {
        const int64_t bytes = r[4];
        if (r[0] < 0 || r[0] >= sources || r[2] < 0 || r[2] >= targets || bytes < 0 || r[1] < 0 || r[3] < 0 ||
            r[1] > held[1 + r[0]].len - bytes || r[3] > held[1 + sources + r[2]].len - bytes) {
            PyErr_SetString(PyExc_ValueError, "a piece lies outside of its array");
            goto done;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (const int64_t *r = row; r < end; r += COLUMNS)
        memcpy((char *)held[1 + sources + r[2]].buf + r[3], (const char *)held[1 + r[0]].buf + r[1], (size_t)r[4]);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    while (count) PyBuffer_Release(&held[--count]);
    return result;
}

/* Indices of the offsets at which the buffer does not hold the header. */
static PyObject *unlike(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Py_buffer held[3];
    int count = 0;
    PyObject *found = NULL;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "unlike(buffer, offsets, header)");
        return NULL;
    }
    for (; count < 3; count++)
        if (take(args[count], &held[count], 0)) goto done;
    if (!(found = PyList_New(0))) goto done;
    const int64_t *offset = held[1].buf;
    for (Py_ssize_t i = 0; i < held[1].len / 8; i++) {
        const int inside = offset[i] >= 0 && offset[i] <= held[0].len - held[2].len;
        if (inside && !memcmp((const char *)held[0].buf + offset[i], held[2].buf, (size_t)held[2].len)) continue;
        PyObject *index = PyLong_FromSsize_t(i);
        if (!index || PyList_Append(found, index)) Py_CLEAR(found);
        Py_XDECREF(index);
        if (!found) goto done;
    }
done:
    while (count) PyBuffer_Release(&held[--count]);
    return found;
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

/* post(buffer, at, header): announce what has been written, and wake who sleeps on it; returns the number that was there. */
static PyObject *post(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Py_buffer held[2];
    int count = 0;
    PyObject *result = NULL;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "post(buffer, at, header)");
        return NULL;
    }
    const int64_t at = PyLong_AsLongLong(args[1]);
    if (at == -1 && PyErr_Occurred()) return NULL;
    if (take(args[0], &held[count], 1)) goto done;
    count++;
    if (take(args[2], &held[count], 0)) goto done;
    count++;
    if (!place(&held[0], at)) goto done;
    if (held[1].len != SLEEPERS) {
        PyErr_SetString(PyExc_ValueError, "a header has 16 bytes");
        goto done;
    }
    char *header = (char *)held[0].buf + at;
    _Atomic uint32_t *word = (_Atomic uint32_t *)(header + NUMBER), *sleepers = (_Atomic uint32_t *)(header + SLEEPERS);
    uint32_t number;
    memcpy(header, held[1].buf, NUMBER);
    memcpy(&number, (const char *)held[1].buf + NUMBER, sizeof number);
    result = PyLong_FromUnsignedLong(atomic_exchange(word, number));
    if (atomic_load(sleepers)) futex(word, FUTEX_WAKE, INT32_MAX, NULL);
done:
    while (count) PyBuffer_Release(&held[--count]);
    return result;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* wait(buffer, offsets, was, spins, seconds): are the numbers at all offsets (int64) other than `was`? Looks `spins` times,
 * lets others have the core YIELDS times, which is often enough and cheaper than to sleep and be woken, then sleeps; False
 * after `seconds` of sleep. */
static PyObject *wait_for(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    Py_buffer held[2];
    int count = 0, arrived = 1;
    PyObject *result = NULL;
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "wait(buffer, offsets, was, spins, seconds)");
        return NULL;
    }
    const uint32_t was = (uint32_t)PyLong_AsUnsignedLongMask(args[2]);
    const long long spins = PyLong_AsLongLong(args[3]);
    const double seconds = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) return NULL;
    for (; count < 2; count++)
        if (take(args[count], &held[count], count == 0)) goto done;
    const int64_t *offset = held[1].buf, offsets = held[1].len / 8;
    for (int64_t i = 0; i < offsets; i++)
        if (!place(&held[0], offset[i])) goto done;
    Py_BEGIN_ALLOW_THREADS
    struct timespec end, now;
    int timed = 0;
    for (int64_t i = 0; i < offsets && arrived; i++) {
        char *header = (char *)held[0].buf + offset[i];
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
    result = PyBool_FromLong(arrived);
done:
    while (count) PyBuffer_Release(&held[--count]);
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
