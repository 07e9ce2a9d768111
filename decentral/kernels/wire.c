/* The buffers of an exchange: rows of payloads into them and out of them, and the check of their headers.
 *
 * A table says what to copy: an int64 row of (source, from, target, to, bytes) for each piece, offsets in bytes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { MOST = 24, COLUMNS = 5 };

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

static PyMethodDef methods[] = {{"move", (PyCFunction)(void (*)(void))move, METH_FASTCALL, NULL},
                                {"unlike", (PyCFunction)(void (*)(void))unlike, METH_FASTCALL, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "decentral.kernels._wire",
                                    .m_size = 0,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit__wire(void) { return PyModule_Create(&module); }
