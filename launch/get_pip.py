"""Install a pinned pip into the environment of the running Python, for systems whose venv module comes without it."""

import hashlib
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

URL = (
    "https://files.pythonhosted.org/packages/07/25/ee8c38ae72d66b844ce8eb9711ba905dba21ca1a8a0c960057c41cd23337/"
    "pip-26.3-py3-none-any.whl"
)
SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"

try:
    with urllib.request.urlopen(URL, timeout=60) as answer:
        content = answer.read()
except OSError as error:
    sys.exit(f"setup: {URL}: {error}")
if hashlib.sha256(content).hexdigest() != SHA256:
    sys.exit("setup: the downloaded pip does not match its digest")
with tempfile.TemporaryDirectory() as folder:
    wheel = Path(folder, URL.rsplit("/", 1)[1])
    wheel.write_bytes(content)
    sys.exit(subprocess.call([sys.executable, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)]))
