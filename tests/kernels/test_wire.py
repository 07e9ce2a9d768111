"""What waits in shared memory is woken, not found by chance when its sleep ends."""

import mmap
import threading
import time

import numpy as np
import pytest

from decentral import kernels
from decentral.state import Array

pytestmark = pytest.mark.skipif(not hasattr(kernels.wire, "Post"), reason=kernels.why or "Linux alone has futexes")
HEADER = b"\0" * 12


def test_a_sleeping_rank_is_woken_by_a_post() -> None:
    """The waiting thread would sleep for 30 s; a post whose wake-up is lost lets it."""
    memory = np.frombuffer(mmap.mmap(-1, 2 * 4096), np.uint8).reshape(2, 4096)
    nothing, row = np.zeros((0, 5), np.int64), np.array([[0, 0, 0, 128, 64]], np.int64)
    back = np.array([[0, 128, 0, 0, 64], [1, 0, 0, 64, 64]], np.int64)
    mine = kernels.wire.Post(memory, 1024, np.zeros(1, np.int64), nothing, back, 0)
    other = kernels.wire.Post(memory, 0, np.full(1, 1024), row, nothing, 0)
    for number in range(1, 5):
        found: list[object] = []
        header, own = HEADER + number.to_bytes(4, "little"), np.full(64, 100 + number, np.uint8)
        payload, rows = np.full(64, number, np.uint8), np.zeros(128, np.uint8)

        def sleep(own: Array = own, rows: Array = rows, found: list[object] = found) -> None:
            found.append(mine.get(30.0, (own,), (rows,)))

        mine.send((), header)
        wait = threading.Thread(target=sleep, daemon=True)
        wait.start()
        time.sleep(0.1)  # it sleeps by now
        assert not found
        begin = time.monotonic()
        other.send((payload,), header)
        wait.join(5)
        assert found == [True] and time.monotonic() - begin < 5
        assert rows.tolist() == 64 * [number] + 64 * [100 + number]
        assert other.wait(0.0) == 1 and other.turn == mine.turn == number % 2


def test_another_header_than_expected_is_told_and_nothing_is_copied() -> None:
    memory = np.frombuffer(mmap.mmap(-1, 2 * 4096), np.uint8).reshape(2, 4096)
    nothing, back = np.zeros((0, 5), np.int64), np.array([[0, 0, 0, 0, 64]], np.int64)
    mine = kernels.wire.Post(memory, 1024, np.array([0, 64]), nothing, back, 0)
    others = [kernels.wire.Post(memory, at, np.full(1, 1024), nothing, nothing, 0) for at in (0, 64)]
    expected, another = HEADER + b"\1\0\0\0", b"\1" + HEADER[1:] + b"\1\0\0\0"
    rows = np.zeros(64, np.uint8)
    mine.send((), expected)
    assert mine.wait(0.001) is None and not mine.get(0.001, (), (rows,))  # nobody is there
    others[0].send((), expected)
    others[1].send((), another)
    assert mine.wait(0.001) == 1 and not mine.get(0.001, (), (rows,)) and not rows.any()


@pytest.mark.parametrize(("at", "other"), [(4096, 0), (-64, 0), (32, 0), (0, 4096), (0, 8)])
def test_places_outside_of_the_memory_are_refused(at: int, other: int) -> None:
    memory, nothing = np.frombuffer(mmap.mmap(-1, 2 * 4096), np.uint8).reshape(2, 4096), np.zeros((0, 5), np.int64)
    with pytest.raises(ValueError, match="outside of the memory, or not aligned"):
        kernels.wire.Post(memory, at, np.array([other]), nothing, nothing, 0)
    with pytest.raises(ValueError, match="rows of 5 int64"):
        kernels.wire.Post(memory, 0, np.array([64]), np.zeros(4, np.int64), nothing, 0)
    post = kernels.wire.Post(memory, 0, np.array([64]), np.array([[0, 0, 0, 4090, 64]]), nothing, 0)
    with pytest.raises(ValueError, match="a piece lies outside"):
        post.send((np.zeros(64, np.uint8),), bytes(16))
    with pytest.raises(ValueError, match="16 bytes"):
        post.send((), bytes(15))
