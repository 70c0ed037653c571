"""Work on the ledger's blocks, some at a time, in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import duckdb

from pairsift.pipeline.control import machine

T = TypeVar("T")

MOST_THREADS = 4  # each holds a block


class Pool:
    """Threads for `blocks` blocks; they are there only while `each` or `share` goes on."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._threads = min(MOST_THREADS, machine.processors())
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """From any thread: have `each`, `share` and `check` raise duckdb.InterruptException soon."""
        self._interrupted.set()

    def each(self, work: Callable[[int], T]) -> Iterator[T]:
        """What `work` makes of each block, in order; some are worked on at a time."""
        with ThreadPoolExecutor(self._threads) as pool:
            begun: deque[Future[T]] = deque()
            try:
                for block in range(self._blocks):
                    begun.append(pool.submit(self._unless_interrupted, work, block))
                    if len(begun) >= self._threads:
                        yield begun.popleft().result()
                while begun:
                    yield begun.popleft().result()
            finally:
                for future in begun:
                    future.cancel()

    def share(self, work: Callable[[Iterator[int]], None]) -> None:
        """Have some threads do `work` on the blocks at a time: each is given an iterator, and takes the next block from it that
        no other took."""
        blocks, lock = iter(range(self._blocks)), threading.Lock()

        def taken() -> Iterator[int]:
            while True:
                self.check()
                with lock:
                    block = next(blocks, None)
                if block is None:
                    return
                yield block

        with ThreadPoolExecutor(self._threads) as pool:
            begun = [pool.submit(work, taken()) for _ in range(min(self._threads, self._blocks))]
            wait(begun, return_when=FIRST_EXCEPTION)
            with lock:
                deque(blocks, maxlen=0)  # where one has failed, the others need not go on
            for future in begun:
                future.result()

    def _unless_interrupted(self, work: Callable[[int], T], block: int) -> T:
        self.check()
        return work(block)

    def check(self) -> None:
        if self._interrupted.is_set():
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
