"""The CUDA kernels compile for the GPUs that they are meant for, without a device: no warnings, nothing spilled.

`pytest -s` shows what the assembler says of each: results/gpu/README.md has the figures.
"""

import ctypes
import re
import shutil
import subprocess
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

import pytest

from decentral.kernels import gpu

VERBOSE = "--ptxas-options=-v"


def nvrtc():
    """The run-time compiler, from its wheel or the system; or None."""
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            folders = getattr(find_spec(package), "submodule_search_locations", None) or ()
        except ModuleNotFoundError:
            continue
        for path in (path for folder in folders for path in Path(folder).glob("lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    name = find_library("nvrtc")
    return ctypes.CDLL(name) if name else None


def compile_with_nvrtc(library, names, arch):
    """What CuPy would compile; the log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), gpu.source().encode(), b"decentral.cu", 0, None, None) == 0
    for name in names:
        assert library.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [option.encode() for option in (*gpu.OPTIONS, f"--gpu-architecture={arch}", VERBOSE)]
    status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()
    return log.value.decode()


def compile_with_nvcc(nvcc, names, arch, folder):
    """The same, by way of a file."""
    table = "void *decentral_kernels[] = {" + ", ".join(f"(void *){name}" for name in names) + "};\n"
    (folder / "kernels.cu").write_text(f"{gpu.source()}\n{table}", encoding="utf-8")
    command = [nvcc, *gpu.OPTIONS, f"-arch={arch}", VERBOSE, "-Werror=all-warnings", "-cubin", "kernels.cu", "-o", "kernels.cubin"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def figures(log):
    """(entry, registers, bytes spilled) of every kernel in an assembler's log."""
    entry = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    return [(name, int(r), int(a) + int(b)) for name, a, b, r in re.findall(entry, log, re.DOTALL)]


# of the kernels that differ by width one width, of the encoders the one that holds most
@pytest.mark.parametrize("arch, real", [("sm_80", "float"), ("sm_90", "double")])
def test_kernels_compile_and_nothing_is_spilled(kernel_names, tmp_path, arch, real):
    names = [n for n in kernel_names((4,), [gpu.FEEDBACK]) if real in n or "<" not in n]
    names = [n for n in names if "quantize_encode" not in n or n.endswith(f" {gpu.TWO_NORM}>")]
    library, nvcc = nvrtc(), shutil.which("nvcc")
    if library is not None:
        log = compile_with_nvrtc(library, names, arch)
    elif nvcc is not None:
        log = compile_with_nvcc(nvcc, names, arch, tmp_path)
    else:
        pytest.skip("neither NVRTC (pip install nvidia-cuda-nvrtc-cu12) nor nvcc")
    assert "warning" not in log
    found = figures(log)
    assert len(found) == len(names), log
    for name, registers, spilled in sorted(found):
        print(f"{arch} {name[:40]:40} {registers:3} registers, {spilled} bytes spilled")
    assert all(spilled == 0 for _, _, spilled in found)
