"""One run at a time per output and per work folder, and no late writes of a run that was killed.

    FOLDER/run.lock        who holds it: host, process, since, token
    FOLDER/workers.lock    locked (shared) by every process that writes for the holder, as long as it lives

On a disk both are locks of the kernel: they end with their process, however it ends. A run whose driver was killed may
still have workers for some seconds; who comes next waits until the last of them has let go of `workers.lock`, so nothing of
the old run can be written into the new one's work. An object store has no such locks: there the holder writes `run.lock`
anew every few seconds, one that stands still is taken over, and workers compare its token with theirs before they commit.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar

from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder, telling_where

T = TypeVar("T")
R = TypeVar("R")
BEAT_SECONDS = 10.0  # between two signs of life in an object store
STILL_SECONDS = 3 * BEAT_SECONDS  # without one, the holder is taken for dead
ORPHANS_SECONDS = 30.0  # that workers of a killed run are waited for; Ray ends its own within three
_POLL_SECONDS = 0.1
_NAME, _WORKERS = "run.lock", "workers.lock"


class FencedError(OSError):
    """This process works for a run that does not hold the folder any more, and nothing may be written: the run has ended and
    another one has begun, or the folder was deleted."""


@dataclass(frozen=True)
class Fence:
    """The right of one run's processes to write into a folder. Cheap to pickle."""

    folder: Folder
    token: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """For as long as a process writes. Raises FencedError where another run holds the folder."""
        if not self.folder.local:
            self.check()
            yield
            return
        with open(self.folder.path(_WORKERS), "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FencedError(f"{self.folder.uri}: held by a run that has begun since") from None
            self._compare()
            yield

    def check(self) -> None:
        """Right before a commit. On a disk the kernel has seen to it already."""
        if not self.folder.local:
            self._compare()

    def ask_to_stop(self) -> None:
        """Tell the run's workers, wherever they are, to begin nothing more."""
        self.folder.write(f"stop-{self.token}", b"")

    @property
    def asked_to_stop(self) -> bool:
        return self.folder.exists(f"stop-{self.token}")

    def _compare(self) -> None:
        card = _read(self.folder)
        if card is None:
            raise FencedError(f"{self.folder.uri}: its {_NAME} is gone: was the folder deleted while a run went on? Run again")
        if card.get("token") != self.token:
            raise FencedError(f"{self.folder.uri}: held by a run that has begun since")


@dataclass(frozen=True)
class Inside(Generic[T, R]):
    """A function that writes for the run which holds a folder, in any process. Raises FencedError: see Fence.inside."""

    fence: Fence
    function: Callable[[T], R]

    def __call__(self, item: T) -> R:
        with self.fence.inside():
            return self.function(item)


@contextmanager
def hold(folder: Folder, say: Callable[[str], None] = lambda _: None) -> Iterator[Fence]:
    """Hold a folder for one run; it is made if need be. `say` is told why it takes a while.

    Raises ConfigError, with the holder's name, where another run holds it.
    """
    with (_hold_local if folder.local else _hold_remote)(folder, say) as fence:
        yield fence


def holder(folder: Folder) -> dict[str, Any] | None:
    """Who holds a folder right now (host, pid, since, token), or None. In an object store a holder that died is named for
    half a minute more."""
    found = _read(folder)
    if found is None or not folder.local:
        return None if found is None or _silent_for(found) > STILL_SECONDS else found
    with open(folder.path(_NAME), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return found
    return None


@contextmanager
def _hold_local(folder: Folder, say: Callable[[str], None]) -> Iterator[Fence]:
    os.makedirs(folder.uri, exist_ok=True)
    with open(folder.path(_NAME), "a+b", buffering=0) as file:
        if not _locked(file, seconds=1.0):  # `holder` may have it for a moment
            raise _in_use(folder, _read(folder))
        if _read(folder) is not None:  # whoever had it did not come to its end
            _wait_for_orphans(folder, say)
        fence = Fence(folder, uuid.uuid4().hex)
        file.truncate(0)
        with telling_where(folder.path(_NAME)):
            file.write(_card(fence))
        yield fence
        file.truncate(0)  # only after a run that came to its end: then no worker has anything left to write


def _wait_for_orphans(folder: Folder, say: Callable[[str], None]) -> None:
    with open(folder.path(_WORKERS), "ab") as file:
        if _locked(file, seconds=_POLL_SECONDS):
            return
        say(f"{folder.uri}: waiting for the workers of a run that was killed")
        if not _locked(file, seconds=ORPHANS_SECONDS):
            raise ConfigError(
                f"{folder.uri}: processes of a run that was killed are still at work in it after {ORPHANS_SECONDS:.0f} s; "
                f"end them (`fuser {folder.path(_WORKERS)}` names them) and run again"
            )


def _locked(file: Any, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


@contextmanager
def _hold_remote(folder: Folder, say: Callable[[str], None]) -> Iterator[Fence]:
    before = _read(folder)
    if before is not None and not _gone(before):
        say(f"{folder.uri}: held by {_described(before)}; looking for {STILL_SECONDS:.0f} s whether it is alive")
        until = time.monotonic() + STILL_SECONDS
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            now = _read(folder)
            if now is None or now["token"] != before["token"]:
                before = now
                break
            if now != before:
                raise _in_use(folder, now)
    if before is not None and (now := _read(folder)) is not None and now["token"] != before["token"]:
        raise _in_use(folder, now)
    fence = Fence(folder, uuid.uuid4().hex)
    folder.write(_NAME, _card(fence))
    time.sleep(1.0)  # of two that come at the same time, the one that wrote last has it
    if (_read(folder) or {}).get("token") != fence.token:
        raise _in_use(folder, _read(folder))
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(fence, done), name="lock", daemon=True)
    beat.start()
    try:
        yield fence
    finally:
        done.set()
        beat.join()
        if (_read(folder) or {}).get("token") == fence.token:
            folder.remove(_NAME)


def _beat(fence: Fence, done: threading.Event) -> None:
    since = _now()
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):  # the store may be away for a while; a holder that stays silent loses the folder
            if (_read(fence.folder) or {}).get("token") != fence.token:
                return
            fence.folder.write(_NAME, _card(fence, since))


def _card(fence: Fence, since: str | None = None) -> bytes:
    now = _now()
    card = {"host": socket.gethostname(), "pid": os.getpid(), "since": since or now, "alive": now, "token": fence.token}
    return json.dumps(card).encode()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _read(folder: Folder) -> dict[str, Any] | None:
    try:
        card = json.loads(folder.read(_NAME))
    except (FileNotFoundError, ValueError):  # ValueError: nobody's, or being written
        return None
    return card if isinstance(card, dict) and "token" in card else None


def _silent_for(card: dict[str, Any]) -> float:
    return (datetime.now(timezone.utc) - datetime.fromisoformat(card["alive"])).total_seconds()


def _gone(card: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if card["host"] != socket.gethostname():
        return False
    try:
        os.kill(card["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _described(card: dict[str, Any]) -> str:
    return f"process {card['pid']} on {card['host']} since {card['since']}"


def _in_use(folder: Folder, card: dict[str, Any] | None) -> ConfigError:
    by = f"by {_described(card)}" if card else "by another run that has just begun"
    return ConfigError(f"{folder.uri}: in use {by}; wait for it, stop it, or name another folder")
