"""A row that kills its process must not kill the run: such units are worked on in a child process, and bisected.

The child opens the stage once and answers sub-batch by sub-batch. When it dies instead, the sub-batch is halved for the next
child, until single rows are left; those get the fate `process_died`. A Python exception in the child is a fault of the
program and comes back as one.

A child that has lost its GPU says so and ends. No row is blamed for that: the next child gets the whole sub-batch.
"""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable
from contextlib import suppress
from io import BytesIO
from types import TracebackType
from typing import IO

import pyarrow as pa

from pairsift.pipeline.plan import Step
from pairsift.stages import devices
from pairsift.stages.base import Stage, Transform
from pairsift.stages.fates import Failure

DEATHS_IN_A_ROW = 16  # of single rows, with no answer before them: then it is not the rows that kill
LOSSES = 3  # of the device, with the same sub-batch, before it is given up
_ANSWER, _ERROR = b"T", b"E"  # a table; a traceback
_NO_DEVICE, _LOST = b"N", b"L"  # the device was lost when the stage was opened; with a sub-batch. What its library said
_LENGTH = 8  # bytes of a number before each message


class ChildError(Exception):
    """A program error inside a child process; the message is the child's traceback."""


class _NoDeviceError(Exception):
    """The child lost its device when it opened the stage."""


class Isolation:
    """A stage in a child process. A child that dies is replaced; the last one ends with the block."""

    def __init__(self, step: Step) -> None:
        self._stage = step.stage
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths: int | None = 0  # of single rows; None once there was an answer
        self._closed = False

    def __enter__(self) -> "Isolation":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Also from another thread than the one that waits for an answer."""
        self._closed = True
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The stage's answer for a sub-batch, each row that kills its process marked as failed.

        Where the child loses its device LOSSES times, all rows fail with `device_lost`.

        Raises ChildError for an exception in the child, and OSError where whatever row it is given, the process dies, or where
        the stage cannot be opened for want of a device.
        """
        try:
            answer = self._ask_again(batch)
        except devices.DeviceLostError as error:
            return _failed(self._stage, len(batch), Failure.DEVICE_LOST, str(error))
        if isinstance(answer, pa.Table):
            self._deaths = None
            return answer
        if len(batch) == 1:
            self._count_death(answer)
            return _failed(self._stage, 1, Failure.PROCESS_DIED, answer)
        half = len(batch) // 2
        parts = [self(batch.slice(0, half)), self(batch.slice(half))]
        return pa.concat_tables([_with_failures(part) for part in parts], promote_options="default")

    def _count_death(self, how: str) -> None:
        if self._deaths is None:
            return
        self._deaths += 1
        if self._deaths == DEATHS_IN_A_ROW:
            raise OSError(
                f"{self._stage.use}: its process dies of whatever row it is given ({how}): more likely of a lack of memory, or "
                "of a broken library, than of the rows; what is done is kept"
            )

    def _ask_again(self, batch: pa.Table) -> pa.Table | str:
        """As `_ask`, where the device is lost less than LOSSES times."""
        for _ in range(LOSSES - 1):
            with suppress(devices.DeviceLostError, _NoDeviceError):
                return self._ask(batch)
        try:
            return self._ask(batch)
        except _NoDeviceError as error:
            raise OSError(
                f"{self._stage.use}: there is no device to open it on any more ({error}), in {LOSSES} new processes one after "
                "the other; what is done is kept"
            ) from None

    def _ask(self, batch: pa.Table) -> pa.Table | str:
        """The answer, or how the child died. Raises ChildError for an exception inside it, and others for a lost device."""
        if self._closed:
            raise ChildError("it was no longer wanted")
        child = self._child = self._child or _start(self._stage)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _send(child.stdin, _encoded(batch))
            tag, data = child.stdout.read(1), _receive(child.stdout)
        except (BrokenPipeError, EOFError):
            self._child = None
            child.communicate()
            return _end_of(child)
        if tag == _ERROR:
            raise ChildError(data.decode("utf-8", "replace"))
        if tag in (_NO_DEVICE, _LOST):
            self._child = None
            child.communicate()
            raise (_NoDeviceError if tag == _NO_DEVICE else devices.DeviceLostError)(data.decode("utf-8", "replace"))
        return pa.ipc.open_stream(data).read_all()


def _with_failures(table: pa.Table) -> pa.Table:
    for name in ("failure", "failure_detail"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table.select(sorted(table.column_names))


def _failed(stage: Stage, rows: int, failure: Failure, how: str) -> pa.Table:
    nulls = {field.name: pa.nulls(rows, field.type) for field in stage.writes()}
    return pa.table({**nulls, "failure": pa.array([failure.value] * rows), "failure_detail": pa.array([how] * rows)})


def _end_of(child: "subprocess.Popen[bytes]") -> str:
    if child.returncode < 0:
        return f"killed by {signal.Signals(-child.returncode).name}"
    return f"exited with {child.returncode}"


def _start(stage: Stage) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as child; child.main()", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for its parent
    )
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it has died already, which the first question will tell
        _send(child.stdin, pickle.dumps(stage))  # with what it has found out since, such as its model's commit
    return child


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(_LENGTH, "big"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """Raises EOFError where who sends has died."""
    length = pipe.read(_LENGTH)
    message = pipe.read(int.from_bytes(length, "big")) if len(length) == _LENGTH else b""
    if len(length) < _LENGTH or len(message) < int.from_bytes(length, "big"):
        raise EOFError
    return message


def _encoded(table: pa.Table) -> bytes:
    sink = BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _die_with_parent(parent: int) -> None:
    """Linux: be killed when the parent is. Elsewhere a child outlives its parent until its one sub-batch is done."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    loop = asyncio.new_event_loop()
    tag_of_loss = _NO_DEVICE
    try:
        stage: Stage = pickle.loads(_receive(source))  # noqa: S301 - it comes from our own parent
        with stage.open() as transform:
            tag_of_loss = _LOST
            while True:
                batch = pa.ipc.open_stream(_receive(source)).read_all()
                answer = _encoded(_answer(loop, transform, batch))
                sink.write(_ANSWER)
                _send(sink, answer)
    except EOFError:  # the parent needs no more
        return
    except Exception as error:  # noqa: BLE001 - handed to the parent, which raises it
        said = devices.loss(error)
        sink.write(_ERROR if said is None else tag_of_loss)
        _send(sink, traceback.format_exc().encode() if said is None else said.encode())
        if said is not None:
            os._exit(0)  # the interpreter's end would ask the lost device to free its memory


def _answer(loop: asyncio.AbstractEventLoop, transform: Transform, batch: pa.Table) -> pa.Table:
    answer = transform(batch)
    return loop.run_until_complete(_wait(answer)) if isinstance(answer, Awaitable) else answer


async def _wait(answer: Awaitable[pa.Table]) -> pa.Table:
    return await answer


def main() -> None:
    """What the child runs: sub-batches from stdin, answers to stdout; the argument is the parent's process id."""
    _die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever ends all processes of a job ends the parent, and this one with it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the bytes of the answers
    _serve(sys.stdin.buffer, answers)
