import threading
import time
from collections.abc import Iterator

import duckdb
import pytest

from pairsift.pipeline.cut.pool import Pool


def test_each_block_is_taken_once() -> None:
    found: list[list[int]] = []
    Pool(1000).share(lambda blocks: found.append(list(blocks)))
    assert sorted(block for taken in found for block in taken) == list(range(1000))
    assert all(taken == sorted(taken) for taken in found)
    Pool(0).share(lambda blocks: pytest.fail("there are none"))


def test_where_one_thread_fails_the_others_stop() -> None:
    """Each block takes 10 ms; all of them would take minutes."""
    first = threading.Event()

    def work(blocks: Iterator[int]) -> None:
        for _ in blocks:
            if not first.is_set():
                first.set()
                raise OSError("a block that cannot be read")
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(OSError, match="a block that cannot be read"):
        Pool(100_000).share(work)
    assert time.monotonic() - began < 10


def test_an_interruption_ends_both() -> None:
    pool = Pool(10)

    def work(blocks: Iterator[int]) -> None:
        for _ in blocks:
            pool.interrupt()

    with pytest.raises(duckdb.InterruptException):
        pool.share(work)
    with pytest.raises(duckdb.InterruptException):
        list(pool.each(str))
