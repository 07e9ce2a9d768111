"""What stands for CuPy where there is no device: NumPy arrays that behave as if they were far away, and kernels on the CPU.

Stricter than CuPy where CuPy is lenient, so that a run that passes here neither mixes arrays of the CPU with those of the
device nor waits for the device without saying so: no conversion but `asarray` and `get`, no truth value, no number, no mask
as an index; new arrays hold NaN; what `get` brings without blocking is there only after `synchronize`, and so is what MPI takes from
device memory. All of them are counted. NumPy's functions are those that are named here, because CuPy has them.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

FUNCTIONS = (np.concatenate, np.copyto, np.empty_like, np.repeat, np.take, np.take_along_axis, np.zeros_like)
UFUNCS = (
    np.absolute, np.add, np.bitwise_or, np.divide, np.exp, np.greater, np.invert, np.isfinite, np.matmul, np.multiply, np.negative,
    np.power, np.sqrt, np.subtract,
)  # fmt: skip


def refuse(what):
    raise TypeError(f"{what}: the device would be read, or written, behind the run's back")


def here(a):
    """The NumPy array of an argument, or the argument."""
    if isinstance(a, ndarray):
        return a.host
    if isinstance(a, np.ndarray):
        refuse("an array of the CPU among those of the device")
    if isinstance(a, list | tuple):
        return type(a)(here(x) for x in a)
    return a


def there(a):
    return ndarray(a) if isinstance(a, np.ndarray | np.generic) else a


class ndarray(NDArrayOperatorsMixin):
    """An array on the device; `host` is what it stands for."""

    def __init__(self, host):
        self.host = np.asarray(host)

    shape, dtype, ndim, size, nbytes = (
        property(lambda self, name=name: getattr(self.host, name)) for name in ("shape", "dtype", "ndim", "size", "nbytes")
    )
    flags = property(lambda self: SimpleNamespace(c_contiguous=self.host.flags.c_contiguous))
    T = property(lambda self: ndarray(self.host.T))

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return map(ndarray, self.host) if self.ndim > 1 else refuse("a number for a number")

    @property
    def __cuda_array_interface__(self):
        """For MPI, which does not wait for the device."""
        if working:
            refuse("memory of a device that is at work")
        return self.host.__array_interface__

    def __dlpack__(self, **how):
        return self.host.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.host.__dlpack_device__()

    def _index(self, at):
        for a in at if isinstance(at, tuple) else (at,):
            if isinstance(a, ndarray) and a.dtype == bool or isinstance(a, list):
                refuse("an index that is a mask or a list")
        return here(at)

    def __getitem__(self, at):
        return ndarray(self.host[self._index(at)])

    def __setitem__(self, at, value):
        work()
        self.host[self._index(at)] = here(value)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        if method != "__call__" or ufunc not in UFUNCS:
            refuse(f"{ufunc.__name__}.{method}")
        work()
        if out is not None:
            kwargs["out"] = tuple(o.host if isinstance(o, ndarray) else refuse("out") for o in out)
        result = ufunc(*here(inputs), **{k: v if k == "out" else here(v) for k, v in kwargs.items()})
        return out[0] if out is not None else there(result)

    def __array_function__(self, function, types, args, kwargs):
        if function is np.may_share_memory:  # of pointers, which the CPU has
            return function(*here(args))
        if function not in FUNCTIONS:
            refuse(function.__name__)
        work()
        result = there(function(*here(args), **{k: here(v) for k, v in kwargs.items()}))
        return filled(result) if function is np.empty_like else result

    def __array__(self, *args, **kwargs):
        refuse("np.asarray")

    __bool__ = __int__ = __float__ = __index__ = tolist = item = __array__

    def copy(self, order="C"):
        return ndarray(self.host.copy(order))

    def view(self, dtype):
        return ndarray(self.host.view(dtype))

    def reshape(self, *shape):
        return ndarray(self.host.reshape(*shape))

    def astype(self, dtype):
        return ndarray(self.host.astype(dtype))

    def all(self, axis=None):
        return ndarray(self.host.all(axis=axis))

    def sum(self, axis=None, keepdims=False):
        return ndarray(self.host.sum(axis=axis, keepdims=keepdims))

    def max(self, axis=None, keepdims=False):
        return ndarray(self.host.max(axis=axis, keepdims=keepdims))

    def transpose(self, *axes):
        return ndarray(self.host.transpose(*axes))

    def get(self, out=None, blocking=True):
        counts["fetched"] += 1
        moved["fetched"] += self.nbytes
        out = np.empty_like(self.host) if out is None else out
        assert out.flags.c_contiguous and (out.dtype, out.shape) == (self.dtype, self.shape)
        if not blocking:
            waiting.append((out, self.host.copy()))
            return out
        synchronize()
        out[...] = self.host
        return out


counts = Counter()
"""given: arrays that came; fetched: arrays that were read; waited: how often the CPU waited for the device, events: for a point
in its work."""
moved = Counter()
"""given, fetched: bytes of these arrays."""
waiting = []


working = False
"""Was the device given work that nobody waited for?"""


def work():
    global working
    working = True


def synchronize():
    global working
    working = False
    counts["waited"] += 1
    arrive(len(waiting))


def arrive(count):
    """The first copies that `get` began are there."""
    for out, values in waiting[:count]:
        out[...] = values
    del waiting[:count]
    Event.past += count


class Event:
    """After the work that was given up to `record`, copies among it."""

    past = 0

    def record(self):
        self.copies = Event.past + len(waiting)

    def synchronize(self):
        counts["events"] += 1
        arrive(max(0, self.copies - Event.past))


def filled(a):
    """With bytes of ones: NaN, and integers that no array has room for."""
    np.copyto(a.host.reshape(-1).view(np.uint8), 0xFF)
    return a


def asarray(a):
    assert isinstance(a, np.ndarray)
    counts["given"] += 1
    moved["given"] += a.nbytes
    return ndarray(a.copy())


class Cupy:
    """The module, with the kernels of an `Emulator` on `devices` devices."""

    empty = staticmethod(lambda shape, dtype: filled(ndarray(np.empty(shape, dtype))))
    zeros = staticmethod(lambda shape, dtype: ndarray(np.zeros(shape, dtype)))
    empty_like = staticmethod(np.empty_like)
    asarray = staticmethod(asarray)
    asnumpy = staticmethod(lambda a: a.get())
    from_dlpack = staticmethod(lambda tensor: ndarray(np.from_dlpack(tensor)))

    def __init__(self, emulator, devices=2):
        self.emulator, self.used = emulator, 0
        self.cuda = SimpleNamespace(
            Device=lambda number=None: SimpleNamespace(id=self.used, use=lambda: setattr(self, "used", number)),
            alloc_pinned_memory=bytearray,
            Event=Event,
            get_current_stream=lambda: SimpleNamespace(synchronize=synchronize),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: devices, getDeviceProperties=lambda number: {"name": f"stand-in {number}".encode()}
            ),
        )

    def RawModule(self, code, options, name_expressions):
        def function(name):
            return lambda blocks, threads, args: work() or self.emulator.launch(name, blocks, threads, [here(a) for a in args])

        return SimpleNamespace(get_function=function)
