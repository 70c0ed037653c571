"""What a check finds: where, what is wrong, and what to do about it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
AGAIN = "run again: nothing is computed again"  # the remedy for what comes of the rest
_FEW = 16  # tasks that are done here sooner than another process has started
_WAITING = 4  # tasks handed to each process ahead of its work


@dataclass(frozen=True)
class Problem:
    """`remove` lists what has to go before the next run, which then makes it again; empty where that is no remedy."""

    where: str  # full path
    what: str
    remedy: str
    remove: tuple[str, ...] = ()  # full paths

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Findings:
    """What one part of a check found, and how much it looked at, by kind of thing."""

    problems: list[Problem] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)

    def count(self, kind: str, number: int = 1) -> None:
        self.looked[kind] = self.looked.get(kind, 0) + number

    def add(self, where: str, what: str, remedy: str, remove: Sequence[str] = ()) -> None:
        self.problems.append(Problem(where, what, remedy, tuple(remove)))


def reason(error: Exception) -> str:
    """An exception's first line, without a full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def spread(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """`function` of each task, by that many processes, in whatever order they end. `function` and tasks can be pickled."""
    if len(tasks) < _FEW or workers < 2:
        yield from map(function, tasks)
        return
    # Not fork: the threads of Arrow and DuckDB do not survive one.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = iter(tasks)
        running: set[Future[R]] = set()
        while True:
            for task in waiting:
                running.add(pool.submit(function, task))
                if len(running) >= workers * _WAITING:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
