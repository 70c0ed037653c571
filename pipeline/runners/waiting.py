"""Reading from what blocks, in a way that a stop and the death of Ray's services can interrupt."""

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.runners.services import Services

LOOK_SECONDS = 0.2  # between two looks whether a stop was asked for
STOPPED = "stopped"  # a row's `refused` where its worker had been asked to stop
_LEAVE_SECONDS = 2.0  # for Ray Data to end, where a run ends before all units are done


def interruptible(
    rows: Generator[dict[str, Any]], end: Callable[[], None], stop: Stop, services: Services
) -> Generator[dict[str, Any]]:
    """The rows as they come, up to the first with a worker's error. Ray Data blocks until it has one, so a thread waits for
    them, and this one for a stop as well; raises Interrupted some seconds after it was asked for. `end` makes `rows` end."""
    came: queue.SimpleQueue[tuple[dict[str, Any] | None, BaseException | None]] = queue.SimpleQueue()
    left = threading.Event()

    def wait() -> None:
        try:
            with closing(rows) as given:
                for row in given:
                    came.put((row, None))
                    if left.is_set() or row["refused"] not in ("", STOPPED):
                        break
            came.put((None, None))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that iterates
            came.put((None, error))

    thread = threading.Thread(target=wait, name="ray-data", daemon=True)
    thread.start()
    try:
        while not stop.grace_is_over:
            services.check()
            try:
                row, error = came.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            if row is None:
                break
            yield row
    finally:  # Ray crashes where it is shut down while the thread still tells it how much was read
        left.set()
        if thread.is_alive():
            end()
        thread.join(_LEAVE_SECONDS)
    stop.check()
