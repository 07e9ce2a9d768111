"""What waits in shared memory is woken, not found by chance when its sleep ends."""

import mmap
import threading
import time

import numpy as np
import pytest

from decentral import kernels

pytestmark = pytest.mark.skipif(not hasattr(kernels.wire, "wait"), reason=kernels.why or "Linux alone has futexes")
HEADER = b"\0" * 12


def test_a_sleeping_rank_is_woken_by_a_post() -> None:
    """The waiting thread would sleep for 30 s; a post whose wake-up is lost lets it."""
    buffer = np.frombuffer(mmap.mmap(-1, 4096), np.uint8)
    payload, nothing = np.arange(64, dtype=np.uint8), np.zeros((0, 5), np.int64)
    table, at = np.array([[0, 0, 0, 128, 64]], np.int64), np.zeros(1, np.int64)
    for number in range(1, 4):
        found: list[object] = []
        header = HEADER + number.to_bytes(4, "little")

        def sleep(header: bytes = header, was: int = number - 1, found: list[object] = found) -> None:
            found.append(kernels.wire.wait(buffer, at, header, was, 0, 30.0))

        wait = threading.Thread(target=sleep, daemon=True)
        wait.start()
        time.sleep(0.1)  # it sleeps by now
        assert not found
        begin = time.monotonic()
        assert kernels.wire.post(table if number > 1 else nothing, (payload,), buffer, 0, header) == number - 1
        wait.join(5)
        assert found == [1] and time.monotonic() - begin < 5
        assert (bytes(buffer[128:192]) == bytes(payload)) == (number > 1)
