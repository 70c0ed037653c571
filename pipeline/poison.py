"""A row that kills its process must not kill the run: such units are worked on in child processes, and bisected.

The child reads one sub-batch, runs the stage on it and answers. When it dies
instead, the sub-batch is halved, until single rows are left; those get the fate `process_died`. A Python exception in
the child is a fault of the program and comes back as one.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable
from io import BytesIO
from typing import BinaryIO

import pyarrow as pa

from pairsift.pipeline.plan import Step
from pairsift.stages.base import Stage
from pairsift.stages.fates import Failure


class ChildError(Exception):
    """A program error inside a child process; the message is the child's traceback."""


def isolate(step: Step, batch: pa.Table) -> pa.Table:
    """The stage's answer for a sub-batch, each row that kills its process marked as failed."""
    answer = _ask_child(step.stage, batch)
    if isinstance(answer, pa.Table):
        return answer
    if len(batch) == 1:
        return _died(step.stage, answer)
    half = len(batch) // 2
    parts = [isolate(step, batch.slice(0, half)), isolate(step, batch.slice(half))]
    return pa.concat_tables([_with_failures(part) for part in parts], promote_options="default")


def _with_failures(table: pa.Table) -> pa.Table:
    for name in ("failure", "failure_detail"):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table.select(sorted(table.column_names))


def _died(stage: Stage, how: str) -> pa.Table:
    nulls = {field.name: pa.nulls(1, field.type) for field in stage.writes()}
    return pa.table({**nulls, "failure": pa.array([Failure.PROCESS_DIED.value]), "failure_detail": pa.array([how])})


def _ask_child(stage: Stage, batch: pa.Table) -> pa.Table | str:
    """The answer, or how the child died. Raises ChildError for an exception inside it."""
    header = pickle.dumps(stage)  # with what it has found out since, such as its model's commit
    sink = BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", f"import {__name__} as child; child.main()", str(os.getpid())],
        input=len(header).to_bytes(8, "big") + header + sink.getvalue(),
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if done.returncode == 0 and done.stdout[:1] == b"T":
        return pa.ipc.open_stream(done.stdout[1:]).read_all()
    if done.returncode == 0 and done.stdout[:1] == b"E":
        raise ChildError(done.stdout[1:].decode("utf-8", "replace"))
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    return f"exited with {done.returncode}"


def _die_with_parent(parent: int) -> None:
    """Linux: be killed when the parent is. Elsewhere a child outlives its parent until its one sub-batch is done."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    header = source.read(int.from_bytes(source.read(8), "big"))
    batch = pa.ipc.open_stream(source.read()).read_all()
    try:
        stage: Stage = pickle.loads(header)  # noqa: S301 - it comes from our own parent
        with stage.open() as transform:
            answer = transform(batch)
            if isinstance(answer, Awaitable):
                import asyncio

                answer = asyncio.run(_wait(answer))
        stream = BytesIO()
        with pa.ipc.new_stream(stream, answer.schema) as writer:
            writer.write_table(answer)
        sink.write(b"T" + stream.getvalue())
    except Exception:  # noqa: BLE001 - handed to the parent, which raises it
        sink.write(b"E" + traceback.format_exc().encode())
    sink.flush()


async def _wait(answer: Awaitable[pa.Table]) -> pa.Table:
    return await answer


def main() -> None:
    """What the child runs: one sub-batch from stdin, the answer to stdout; the argument is the parent's process id."""
    _die_with_parent(int(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the bytes of the answer
    _serve(sys.stdin.buffer, answer)
