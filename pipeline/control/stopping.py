"""Stopping a run before its end: a signal, a time limit, or whoever calls the API. What is done is kept."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 5.0  # that units in flight may take to end; then they are abandoned, and done again by the next run
HARD_SECONDS = 9.0  # after a signal, the process is gone by then, whatever a library is busy with
GO_ON = "what is done is kept: the same command goes on from here"


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was stopped before its end; the message says by what."""


class Stop:
    """Asked for from anywhere, once or often; looked at by whatever takes long."""

    def __init__(self, max_seconds: float | None = None) -> None:
        """`max_seconds`: ask for the stop by itself after so many seconds from now."""
        self.reason: str | None = None
        self.asked_at = 0.0  # of time.monotonic
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()  # while callbacks run, so that none is called after its block
        self._timer: threading.Timer | None = None
        if max_seconds is not None:
            self._timer = threading.Timer(max_seconds, self.ask, [f"--max-time: {max_seconds:g} s are over"])
            self._timer.daemon = True
            self._timer.start()

    def ask(self, reason: str) -> None:
        """Stop, because of `reason`."""
        with self._lock:
            if self.reason is None:
                self.reason, self.asked_at = reason, time.monotonic()
                for callback in self._callbacks:
                    callback()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called, from any thread, when a stop is asked for within the block."""
        with self._lock:
            self._callbacks.append(callback)
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    @property
    def asked(self) -> bool:
        return self.reason is not None

    @property
    def grace_is_over(self) -> bool:
        """Whether units in flight have had their time."""
        return self.asked and time.monotonic() - self.asked_at > GRACE_SECONDS

    def listen(self) -> None:
        """Take the signals that ask for it, again: something else may have taken them since."""

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for."""
        if self.reason is not None:
            raise Interrupted(self.reason)


class SignalStop(Stop):
    """A stop that SIGINT and SIGTERM ask for. The second signal ends the process at once, as does the first after
    HARD_SECONDS: a kill at any moment loses nothing, so there is no reason to wait for a library that does not return."""

    def __init__(self, exit_code: int, max_seconds: float | None = None) -> None:
        super().__init__(max_seconds)
        self._exit_code = exit_code
        self._heard_before = False

    def listen(self) -> None:
        """In the main thread only."""
        signal.signal(signal.SIGINT, self._heard)
        signal.signal(signal.SIGTERM, self._heard)

    @staticmethod
    def over() -> None:
        """The run is done: a signal no longer changes anything. In the main thread only.

        Python takes its handlers away while a process ends; a signal in that moment would make a done run look killed.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def leave(self) -> NoReturn:
        """End the process at once: a library that was interrupted may abort while Python takes itself down."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._exit_code)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        name = signal.Signals(number).name
        if self._heard_before:
            self._exit(name)
        self._heard_before = True
        timer = threading.Timer(HARD_SECONDS, self._exit, [name])
        timer.daemon = True
        timer.start()
        # In a thread of its own: this one may be in the middle of what is to be interrupted, DuckDB for one.
        threading.Thread(target=self.ask, args=["Ctrl-C" if number == signal.SIGINT else name], daemon=True).start()

    def _exit(self, name: str) -> None:
        os.write(sys.stderr.fileno(), f"\npairsift: stopped at once by {name}; {GO_ON}\n".encode())
        os._exit(self._exit_code)
