"""The CUDA kernels where there is a device, and on the CPU by emulator.h, through the same decentral/kernels/gpu.py."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from decentral.kernels import gpu

REALS, WIDTHS = ("float", "double"), range(1, 18)
HERE = Path(__file__).parent


def kernel_names(widths=WIDTHS, modes=range(3)):
    """The C++ names of the kernels that gpu.py launches, for some widths of codes and ways to encode."""
    yield from ("words", "halves", "finish_scales", "top_k_scan", "top_k_pick")
    yield from ("pack_places", "count_places", "scan_places", "unpack_places", "check_places", "sample_first", "sample_places")
    for real in REALS:
        for name in ("total", "disagreement", "part_norms", "sign_encode", "sign_decode", "absolute_encode", "absolute_decode"):
            yield f"{name}<{real}>"
        yield from (f"top_k_{step}<{real}>" for step in ("sample", "filter", "digits", "count", "write"))
        yield from (f"scatter<{real}, {add}>" for add in ("false", "true"))
        for width in widths:
            norms = (gpu.LARGEST, gpu.TWO_NORM, gpu.GIVEN)
            yield from (f"quantize_encode<{real}, {width}, {mode}, {norm}>" for mode in modes for norm in norms)
            yield from (f"quantize_decode<{real}, {width}, {advance}>" for advance in ("false", "true"))
            yield f"quantize_mix<{real}, {width}>"


class Emulator:
    """What gpu.py uses of CuPy, on NumPy arrays."""

    first_block = 0  # blocks before it are left out
    empty, zeros, empty_like, isfinite = map(staticmethod, (np.empty, np.zeros, np.empty_like, np.isfinite))
    asnumpy = staticmethod(np.asarray)
    cuda = SimpleNamespace(Device=lambda: SimpleNamespace(id=0))

    def __init__(self, folder: Path, compiler: str, names):
        parts = [names[i::2] for i in range(2)]
        with ThreadPoolExecutor() as pool:
            libraries = list(pool.map(self._build, [folder / f"kernels{i}" for i in range(2)], parts, [compiler] * 2))
        self.functions = {
            name: getattr(library, f"kernel{i}")
            for library, part in zip(libraries, parts, strict=True)
            for i, name in enumerate(part)
        }
        self.directions = [ctypes.c_bool.in_dll(library, "emulator_backward") for library in libraries]

    @staticmethod
    def _build(stem: Path, names: list[str], compiler: str) -> ctypes.CDLL:
        entry = 'extern "C" int kernel{}(long long a, long long b, int t, void **v, const int *s, int n)'
        entry += " {{ return emulator::launch({}, a, b, t, v, s, n); }}"
        entries = "\n".join(entry.format(i, name) for i, name in enumerate(names))
        text = f'#include "{HERE / "emulator.h"}"\n{gpu.source()}\n{entries}\n'
        stem.with_suffix(".cpp").write_text(text, encoding="utf-8")
        # not optimized: it compiles twice as fast and does not run much slower; _longjmp between stacks is not for fortification
        flags = "-std=c++17 -O0 -w -fPIC -shared -ffp-contract=off -U_FORTIFY_SOURCE".split()
        subprocess.run([compiler, *flags, stem.with_suffix(".cpp"), "-o", stem.with_suffix(".so")], check=True)
        return ctypes.CDLL(str(stem.with_suffix(".so")))

    def RawModule(self, code, options, name_expressions):
        """As CuPy's; the kernels are compiled already."""
        return SimpleNamespace(get_function=lambda name: lambda blocks, threads, args: self.launch(name, blocks, threads, args))

    def launch(self, name, blocks, threads, args):
        """Run it; arguments are arrays and NumPy scalars, whose sizes must be the kernel's."""
        values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a.tobytes() for a in args]
        kept = [v if isinstance(v, ctypes.c_void_p) else ctypes.create_string_buffer(v, len(v)) for v in values]
        pointers = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(v) for v in kept))
        sizes = (ctypes.c_int * len(kept))(*(ctypes.sizeof(v) for v in kept))
        first, last = ctypes.c_longlong(self.first_block), ctypes.c_longlong(blocks[0])
        wrong = self.functions[name](first, last, threads[0], pointers, sizes, len(kept))
        assert wrong == 0, f"argument {wrong} of {name}"


@pytest.fixture(name="kernel_names")
def _kernel_names():
    return kernel_names


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    return emulate_kernels(tmp_path_factory, [*kernel_names(modes=[gpu.PLAIN]), *kernel_names((2, 7))])


@pytest.fixture(scope="session")
def small_emulator(tmp_path_factory):
    """Some kernels, for each of several ranks to compile: float64, codes of seven bits."""
    return emulate_kernels(tmp_path_factory, [name for name in kernel_names((7,)) if "float" not in name])


def emulate_kernels(tmp_path_factory, names):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    return Emulator(tmp_path_factory.mktemp("cuda"), compiler, list(dict.fromkeys(names)))


@pytest.fixture
def emulate(monkeypatch):
    """Puts the emulator in the place of CuPy, its threads in one order or the other."""

    def put(emulator, backward=False):
        for direction in emulator.directions:
            direction.value = backward
        monkeypatch.setattr(gpu, "cupy", lambda: emulator)
        gpu.kernel.cache_clear()
        return SimpleNamespace(give=np.array, take=np.asarray)

    return put


@pytest.fixture(params=["emulator", "cuda"])
def device(request, emulate):
    """gpu.py at work, emulated or not; `give` and `take` move NumPy arrays there and back."""
    if request.param != "cuda":
        yield emulate(request.getfixturevalue("emulator"))
    else:
        gpu.kernel.cache_clear()
        try:
            cupy = gpu.cupy()
            cupy.cuda.runtime.getDeviceCount()
        except ImportError as error:
            pytest.skip(f"CuPy is not installed ({error})")
        except Exception as error:  # CUDARuntimeError: no driver, no device
            pytest.skip(f"no CUDA device ({error})")
        yield SimpleNamespace(give=cupy.array, take=cupy.asnumpy)
    gpu.kernel.cache_clear()
