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
#include "buffers.h"
#include <stdatomic.h>

enum { COLUMNS = 5, NUMBER = 12, SLEEPERS = 16, YIELDS = 64, POLITE = 256 };

static int take_all(Buffers *held, PyObject *tuple, int writable) {
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "needs a tuple of arrays");
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
        if (!take(held, PyTuple_GET_ITEM(tuple, i), NULL, 0, writable)) return 0;
    return 1;
}

/* The pieces of a table, from sources to targets. */
static int copy(const Py_buffer *table, const Py_buffer *from, int64_t sources, const Py_buffer *to, int64_t targets) {
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

static int is_table(const Py_buffer *b, int columns) {
    if (b->itemsize == 8 && b->len % (8 * columns) == 0) return 1;
    PyErr_Format(PyExc_ValueError, "the table needs rows of %d int64", columns);
    return 0;
}

static int arguments(Py_ssize_t given, Py_ssize_t expected) {
    if (given != expected) PyErr_SetString(PyExc_TypeError, "wrong number of arguments");
    return given == expected;
}

static PyObject *move(PyObject *self, PyObject *const *args, Py_ssize_t nargs) { /* (table, sources, targets) */
    Buffers held;
    held.count = 0;
    PyObject *result = NULL;
    if (!arguments(nargs, 3) || !take(&held, args[0], NULL, 0, 0) || !is_table(held.b, COLUMNS) || !take_all(&held, args[1], 0)) goto done;
    const Py_buffer *table = held.b, *from = table + 1, *to = table + held.count;
    const int64_t sources = to - from;
    if (take_all(&held, args[2], 1) && copy(table, from, sources, to, held.b + held.count - to)) result = Py_NewRef(Py_None);
done:
    release(&held);
    return result;
}

/* The first index of the offsets (int64) at which the buffer does not hold the header; their number where none is. */
static int64_t first_unlike(const Py_buffer *buffer, const Py_buffer *offsets, const char *header, int64_t size) {
    const int64_t *offset = offsets->buf, most = buffer->len - size;
    int64_t i = 0;
    for (; i < offsets->len / 8; i++)
        if (offset[i] < 0 || offset[i] > most || memcmp((const char *)buffer->buf + offset[i], header, (size_t)size)) break;
    return i;
}

static PyObject *unlike(PyObject *self, PyObject *const *args, Py_ssize_t nargs) { /* (buffer, offsets, header): the first index */
    Buffers held;
    held.count = 0;
    PyObject *result = NULL;
    const Py_buffer *buffer, *offsets, *header;
    if (arguments(nargs, 3) && (buffer = take(&held, args[0], NULL, 0, 0)) && (offsets = take(&held, args[1], NULL, 0, 0)) &&
        (header = take(&held, args[2], NULL, 0, 0)))
        result = PyLong_FromLongLong(first_unlike(buffer, offsets, header->buf, header->len));
    release(&held);
    return result;
}

#ifdef __linux__
/* Shared memory. A place begins with a header, 16 bytes whose last four are the number of what was posted there, then a
 * count of the processes that sleep until this number changes. The number is written last; what it announces lies before it. */
static long futex(const _Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *most) {
    return syscall(SYS_futex, word, operation, value, most, NULL, 0);
}

/* What a rank posts to its neighbors, exchange after exchange, and what it waits for. It holds its buffers while it lives. */
typedef struct {
    PyObject_HEAD
    Py_buffer memory, others, pack, unpack;
    Py_buffer half[2]; /* of the memory, which alone is held */
    int64_t at;
    long long spins;
    int turn;
    uint32_t was;
    char header[SLEEPERS]; /* of the last `send` */
} Post;

static int place(const Py_buffer *half, int64_t at) {
    if (at >= 0 && at % 64 == 0 && at <= half->len - 64 && (uintptr_t)half->buf % 64 == 0) return 1;
    PyErr_SetString(PyExc_ValueError, "a place outside of the memory, or not aligned to 64 bytes");
    return 0;
}

/* Post(memory, at, others, pack, unpack, spins): memory (2, bytes), the places in a half of this rank and of its neighbors
 * (int64), the tables of what goes from the own rows into a half and from (a half, own rows) into the rows that come back. */
static PyObject *post_new(PyTypeObject *type, PyObject *args, PyObject *names) {
    PyObject *memory, *others, *pack, *unpack;
    long long at, spins;
    if (!PyArg_ParseTuple(args, "OLOOOL", &memory, &at, &others, &pack, &unpack, &spins)) return NULL;
    Post *self = (Post *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) ||
        PyObject_GetBuffer(others, &self->others, PyBUF_C_CONTIGUOUS) || !is_table(&self->others, 1) ||
        PyObject_GetBuffer(pack, &self->pack, PyBUF_C_CONTIGUOUS) || !is_table(&self->pack, COLUMNS) ||
        PyObject_GetBuffer(unpack, &self->unpack, PyBUF_C_CONTIGUOUS) || !is_table(&self->unpack, COLUMNS))
        goto bad;
    for (int turn = 0; turn < 2; turn++) {
        Py_buffer *half = &self->half[turn];
        *half = self->memory;
        half->obj = NULL; /* so that a copy of it among what is released in the end does no harm */
        half->len /= 2;
        half->buf = (char *)half->buf + turn * half->len;
        if (!place(half, at)) goto bad;
        for (int64_t i = 0; i < self->others.len / 8; i++)
            if (!place(half, ((const int64_t *)self->others.buf)[i])) goto bad;
    }
    self->at = at, self->spins = spins;
    return (PyObject *)self;
bad:
    Py_DECREF(self);
    return NULL;
}

static void post_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    Post *self = (Post *)object;
    PyBuffer_Release(&self->memory);
    PyBuffer_Release(&self->others);
    PyBuffer_Release(&self->pack);
    PyBuffer_Release(&self->unpack);
    type->tp_free(object);
    Py_DECREF(type);
}

/* send(sources, header): take the other half, copy pieces of the sources there, announce them in the header, wake who sleeps. */
static PyObject *post_send(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Post *self = (Post *)object;
    Buffers held;
    held.count = 0;
    PyObject *result = NULL;
    const Py_buffer *from;
    if (!arguments(nargs, 2) || !(from = take(&held, args[1], NULL, 0, 0)) || !take_all(&held, args[0], 0)) goto done;
    if (from->len != SLEEPERS) {
        PyErr_SetString(PyExc_ValueError, "a header has 16 bytes");
        goto done;
    }
    const Py_buffer *half = &self->half[!self->turn];
    if (!copy(&self->pack, held.b + 1, held.count - 1, half, 1)) goto done;
    self->turn = !self->turn;
    memcpy(self->header, from->buf, SLEEPERS);
    char *header = (char *)half->buf + self->at;
    _Atomic uint32_t *word = (_Atomic uint32_t *)(header + NUMBER), *sleepers = (_Atomic uint32_t *)(header + SLEEPERS);
    uint32_t number;
    memcpy(header, from->buf, NUMBER);
    memcpy(&number, (const char *)from->buf + NUMBER, sizeof number);
    self->was = atomic_exchange(word, number);
    if (atomic_load(sleepers)) futex(word, FUTEX_WAKE, INT32_MAX, NULL);
    result = Py_NewRef(Py_None);
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

/* Until the numbers at all neighbors are other than before the last `send`; false after `seconds` of sleep. Looks `spins` times, soon
 * letting others have the core now and then: to wake a rank whose core has nothing else to do takes long, in virtual machines tenths
 * of a millisecond. Where ranks take turns, lets others have the core YIELDS times, which is often enough. Then sleeps. */
static int arrived(const Post *self, double seconds) {
    const int64_t *other = self->others.buf, others = self->others.len / 8;
    const uint32_t was = self->was;
    struct timespec end, now;
    int timed = 0, all = 1;
    for (int64_t i = 0; i < others && all; i++) {
        char *header = (char *)self->half[self->turn].buf + other[i];
        _Atomic uint32_t *word = (_Atomic uint32_t *)(header + NUMBER), *sleepers = (_Atomic uint32_t *)(header + SLEEPERS);
        for (long long s = 1; s <= self->spins && atomic_load_explicit(word, memory_order_acquire) == was; s++)
            if (s % POLITE) relax();
            else sched_yield();
        for (int s = 0; s < YIELDS && atomic_load_explicit(word, memory_order_acquire) == was; s++) sched_yield();
        if (atomic_load_explicit(word, memory_order_acquire) != was) continue;
        if (!timed++) {
            clock_gettime(CLOCK_MONOTONIC, &end);
            const int64_t until = (int64_t)end.tv_nsec + (int64_t)(seconds * 1e9);
            end.tv_sec += until / 1000000000, end.tv_nsec = until % 1000000000;
        }
        atomic_fetch_add(sleepers, 1);
        while (all && atomic_load(word) == was) {
            clock_gettime(CLOCK_MONOTONIC, &now);
            int64_t left = (int64_t)(end.tv_sec - now.tv_sec) * 1000000000 + (end.tv_nsec - now.tv_nsec);
            if (left <= 0) {
                all = 0;
                break;
            }
            const struct timespec most = {left / 1000000000, left % 1000000000};
            futex(word, FUTEX_WAIT, was, &most);
        }
        atomic_fetch_sub(sleepers, 1);
    }
    return all;
}

/* The first neighbor that posted another header than the last `send`, or their number; -1 after `seconds` of sleep. */
static int64_t waited(const Post *self, double seconds) {
    int all;
    Py_BEGIN_ALLOW_THREADS
    all = arrived(self, seconds);
    Py_END_ALLOW_THREADS
    return all ? first_unlike(&self->half[self->turn], &self->others, self->header, SLEEPERS) : -1;
}

static PyObject *post_wait(PyObject *object, PyObject *seconds) { /* (seconds): what `waited` says, None for -1 */
    const double most = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred()) return NULL;
    const int64_t found = waited((Post *)object, most);
    return found < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(found);
}

/* get(seconds, sources, rows): wait; where all neighbors posted that header copy pieces into the rows and return True, else False. */
static PyObject *post_get(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Post *self = (Post *)object;
    Buffers held;
    held.count = 0;
    PyObject *result = NULL;
    if (!arguments(nargs, 3)) return NULL;
    const double seconds = PyFloat_AsDouble(args[0]);
    if (PyErr_Occurred()) return NULL;
    const int all = waited(self, seconds) == self->others.len / 8;
    if (all) {
        Py_buffer *from = &held.b[held.count++];
        *from = self->half[self->turn];
        if (!take_all(&held, args[1], 0)) goto done;
        const Py_buffer *to = &held.b[held.count];
        if (!take_all(&held, args[2], 1) || !copy(&self->unpack, from, to - from, to, &held.b[held.count] - to)) goto done;
    }
    result = PyBool_FromLong(all);
done:
    release(&held);
    return result;
}

static PyObject *post_turn(PyObject *object, void *closure) { return PyLong_FromLong(((Post *)object)->turn); }

static PyMethodDef post_methods[] = {{"send", (PyCFunction)(void (*)(void))post_send, METH_FASTCALL, NULL},
                                     {"wait", post_wait, METH_O, NULL},
                                     {"get", (PyCFunction)(void (*)(void))post_get, METH_FASTCALL, NULL},
                                     {NULL, NULL, 0, NULL}};
static PyGetSetDef post_members[] = {{"turn", post_turn, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot post_slots[] = {{Py_tp_new, post_new}, {Py_tp_dealloc, post_free}, {Py_tp_methods, post_methods},
                                   {Py_tp_getset, post_members}, {0, NULL}};
static PyType_Spec post_spec = {"decentral.kernels._wire.Post", sizeof(Post), 0, Py_TPFLAGS_DEFAULT, post_slots};
#endif

static PyMethodDef methods[] = {{"move", (PyCFunction)(void (*)(void))move, METH_FASTCALL, NULL},
                                {"unlike", (PyCFunction)(void (*)(void))unlike, METH_FASTCALL, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "decentral.kernels._wire",
                                        .m_size = 0,
                                        .m_methods = methods};

PyMODINIT_FUNC PyInit__wire(void) {
    PyObject *module = PyModule_Create(&definition);
#ifdef __linux__
    PyObject *type = module ? PyType_FromSpec(&post_spec) : NULL;
    if (module && (!type || PyModule_AddObjectRef(module, "Post", type))) Py_CLEAR(module);
    Py_XDECREF(type);
#endif
    return module;
}
