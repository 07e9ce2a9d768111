/* Loops over rows and columns on several threads.
 *
 * The rows are cut into parts, and threads take one after the other until none is left: the calling thread too, and all of
 * them where no other can be started. Which thread takes a part changes no bit: parts write to different places, and what
 * is made of all of them is made afterwards, in their order. Threads live for one call: nothing waits, nothing to fork.
 * A start costs some 30 µs, so that a thread should get 0.1 ms of work at least, and short rows start none.
 */
#ifndef DECENTRAL_THREADS_H
#define DECENTRAL_THREADS_H

#include <pthread.h>
#include <stdint.h>

enum { MOST_THREADS = 64, PART = 1 << 15, LEAST_PART = 512 }; /* entries, of most parts and of the smallest */

static int threads = 1; /* of this module: use_threads */

typedef struct {
    int64_t first, last, begin, end; /* rows first..last − 1, columns begin..end − 1 */
} Part;

typedef void Work(void *context, const Part *part);

typedef struct {
    Work *work;
    void *context;
    int64_t rows, height, begin, end, width, next;
} Loop;

static void *take_parts(void *argument) {
    Loop *l = argument;
    const int64_t across = (l->end - l->begin + l->width - 1) / l->width, parts = (l->rows + l->height - 1) / l->height * across;
    for (int64_t p; (p = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED)) < parts;) {
        const int64_t first = p / across * l->height, begin = l->begin + p % across * l->width;
        const int64_t last = first + l->height, end = begin + l->width;
        const Part part = {first, last < l->rows ? last : l->rows, begin, end < l->end ? end : l->end};
        l->work(l->context, &part);
    }
    return NULL;
}

/* Threads for so much work, of which each should have `least`. */
static inline int threads_for(int64_t work, int64_t least) {
    if (threads == 1 || work < 2 * least) return 1;
    return work / least < threads ? (int)(work / least) : threads;
}

/* work(context, part) for parts that cover columns begin..end − 1 of `rows` rows, `count` at a time: all in one where count
 * is 1, else several rows where they are shorter than a part, or some columns of a row, a multiple of `unit`; of a single row,
 * which may stand for columns of many, so few that each thread gets some parts. */
static inline void share(int count, int64_t rows, int64_t begin, int64_t end, int64_t unit, Work *work, void *context) {
    if (count == 1) {
        const Part all = {0, rows, begin, end};
        work(context, &all);
        return;
    }
    const int64_t d = end - begin, fewer = d / (4 * count) > LEAST_PART ? d / (4 * count) : LEAST_PART;
    const int64_t width = ((rows == 1 && fewer < PART ? fewer : PART) + unit - 1) / unit * unit;
    Loop loop = {work, context, rows, d < PART ? PART / d : 1, begin, end, width, 0};
    pthread_t others[MOST_THREADS];
    int started = 0;
    while (started < count - 1 && !pthread_create(&others[started], NULL, take_parts, &loop)) started++;
    take_parts(&loop);
    while (started) pthread_join(others[--started], NULL);
}

/* Python: use_threads(count), from 1 to MOST_THREADS. */
static PyObject *use_threads(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t nargs) {
    const long count = nargs == 1 ? PyLong_AsLong(args[0]) : 0;
    if (PyErr_Occurred()) return NULL;
    if (count < 1 || count > MOST_THREADS) {
        PyErr_SetString(PyExc_ValueError, "threads");
        return NULL;
    }
    threads = (int)count;
    return Py_NewRef(Py_None);
}

#endif
