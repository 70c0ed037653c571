"""A deadline that stands still while the waiting is of our own making."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTimeError(Exception):
    """The deadline has passed."""


class Deadline:
    """So many seconds for work of one task, not counting what is outside `running` or inside `paused`.

    Like `asyncio.timeout` of Python 3.11, with pauses. Only the task that runs it may use it.
    """

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work that counts. Raises OutOfTimeError in its place once the seconds are used up."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._expired = False
        already = getattr(task, "cancelling", int)()
        self._start()
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:
            # Whoever else cancels the task means it: only our own cancelling becomes OutOfTimeError.
            if self._withdraw(already):
                raise OutOfTimeError from error
            raise
        else:
            self._withdraw(already)
        finally:
            self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Waiting that does not count."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._ends = loop.time() + self._left
        self._timer = loop.call_at(self._ends, self._expire)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left = self._ends - asyncio.get_running_loop().time()

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def _withdraw(self, already: int) -> bool:
        """Whether the task was cancelled by this deadline, and by nobody else."""
        if not self._expired:
            return False
        uncancel = getattr(self._task, "uncancel", None)  # from Python 3.11 on
        return uncancel is None or uncancel() <= already
