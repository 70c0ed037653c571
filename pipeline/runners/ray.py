"""Ray Data: one row of the Dataset is one unit, each chain an actor pool. The only file that imports ray.

What Ray Data 2.60 does that shapes this file:
- Blocks must not be split or merged: one unit per block, `target_max_block_size = None`.
- A worker takes several units at once only with `max_concurrent_calls_per_actor` *and* `enable_true_multi_threading`;
  the calls then come from several threads, and each hands its unit to the worker's one event loop.
- Actor → actor is never fused: neighbouring steps with equal resources are chained here, in one actor.
- Rows come back in completion order; nothing that is written depends on it.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter

from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.ledger.layers import Numbers
from pairsift.pipeline.plan import Step
from pairsift.pipeline.runners import UNITS_IN_FLIGHT
from pairsift.pipeline.runners.services import Services
from pairsift.pipeline.runners.waiting import LOOK_SECONDS, STOPPED, interruptible
from pairsift.pipeline.workers.chain import Chain
from pairsift.pipeline.workers.reports import UnitReport
from pairsift.pipeline.workers.span import Span, bundles, with_workers
from pairsift.pipeline.workers.unit import Unit
from pairsift.stages.base import ConfigError, Resources

os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs leaves CUDA_VISIBLE_DEVICES alone
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else Ray warns on stderr of how Ray Data makes its own actors
# Ray tells of deaths on stdout, which may be for --json. The run log has those of workers, as `deaths`; see also Services.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died|Task MapWorker|due to memory pressure|Raylet is terminated|been marked dead"
)
import ray
import ray.data
import ray.util.metrics
from ray.data._internal.execution.streaming_executor import StreamingExecutor

T = TypeVar("T")
R = TypeVar("R")
_REPORT = TypeAdapter(UnitReport)
_UNITS_AT_ONCE = 20_000  # units per Dataset: Ray holds some kilobytes for each block that there is or will be
_LOOK_AT_SIGNALS = 0.001  # seconds, while Ray ends
_CONFIG, _SYSTEM = "config: ", "system: "  # why a worker gave no report; or STOPPED


class Metrics:
    """What this process did, for Prometheus: Ray's agent on each node exports it, where `ray[default]` is installed."""

    def __init__(self) -> None:
        self._rows = ray.util.metrics.Counter("pairsift_rows", "Rows that a stage computed", ("stage",))
        self._failures = ray.util.metrics.Counter("pairsift_failures", "Rows that failed, by code", ("stage", "code"))
        self._bytes = ray.util.metrics.Counter("pairsift_bytes", "Bytes of images that a stage wrote", ("stage",))
        self._seconds = ray.util.metrics.Counter("pairsift_seconds", "Seconds in a stage's function", ("stage",))
        self._units = ray.util.metrics.Counter("pairsift_units", "Units that went through this worker")

    def add(self, report: UnitReport) -> None:
        """Count a unit in."""
        self._units.inc()
        for layer, done in report.stages.items():
            stage = {"stage": layer.rpartition("-")[0]}  # the layer's name is the stage's, and a fingerprint
            for counter, value in ((self._rows, done.computed), (self._bytes, done.bytes), (self._seconds, done.seconds)):
                if value:
                    counter.inc(value, stage)
            for code, rows in done.failures.items():
                self._failures.inc(rows, {**stage, "code": code})


class ChainWorker:
    """One actor: a chain, and the event loop that its units share."""

    def __init__(self, span: Span, last: bool) -> None:
        self._refused = ""  # why it does nothing
        try:
            self._chain = Chain(span, replaceable=True).__enter__()  # for good: an actor ends with its process
        except (ConfigError, OSError) as error:  # Ray would start it again and again, and then show a stack trace
            self._refused = _refusal(error)
        self._fence = span.fence
        self._last = last
        self._metrics = Metrics()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="chain", daemon=True).start()

    def __call__(self, batch: dict[str, Numbers]) -> dict[str, list[Any]]:
        number = int(batch["unit"][0])
        reports = list(batch["reports"][0]) if "reports" in batch else []
        refused = self._refused or (batch["refused"][0] if "refused" in batch else "")
        table = b""
        if not refused and self._fence and self._fence.asked_to_stop:
            refused = STOPPED
        if not refused:
            passed = _unpack(number, batch["table"][0]) if "table" in batch else None
            try:
                unit, report = asyncio.run_coroutine_threadsafe(self._chain.process(number, passed), self._loop).result()
            except (ConfigError, OSError) as error:  # Ray would give the driver its text only
                refused = _refusal(error)
            else:
                self._metrics.add(report)
                reports.append(_REPORT.dump_json(report).decode())
                table = b"" if self._last else _pack(unit)
        return {"unit": [number], "reports": [reports], "refused": [refused], "table": [table]}


def _rows(dataset: ray.data.Dataset) -> Generator[dict[str, Any]]:
    """What `dataset.iter_rows()` gives. That leaves threads behind which end the process, without a word, where Ray is shut
    down soon after an iteration that was given up."""
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.block_refs:
            yield from ray.get(block).to_pylist()


def _end_executions() -> None:
    """End what Ray Data executes in this process; who iterates over it sees its end. It has no name for this that is public."""
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor):
            thread.shutdown(force=False)


def _refusal(error: ConfigError | OSError) -> str:
    return f"{_CONFIG if isinstance(error, ConfigError) else _SYSTEM}{error}"


def _pack(unit: Unit) -> bytes:
    """A unit as Arrow IPC, for the next chain."""
    table = unit.table.append_column("__alive", pa.array(unit.alive))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _unpack(number: int, data: bytes) -> Unit:
    table = pa.ipc.open_stream(data).read_all()
    alive = table["__alive"].combine_chunks().to_numpy(zero_copy_only=False).copy()
    return Unit(number, table.drop_columns(["__alive"]), alive)


class RayRunner:
    """Actor pools on Ray Data; one-off tasks on Ray itself."""

    def __init__(self) -> None:
        self._services = Services()

    def process(self, span: Span, units: Sequence[int], stop: Stop) -> Iterator[UnitReport]:
        with stop.calling(span.fence.ask_to_stop) if span.fence else nullcontext():
            for start in range(0, len(units), _UNITS_AT_ONCE):
                dataset = self._dataset(span, units[start : start + _UNITS_AT_ONCE])
                with closing(interruptible(_rows(dataset), _end_executions, stop, self._services)) as rows:
                    for row in rows:
                        if row["refused"] == STOPPED:
                            continue
                        if row["refused"]:
                            raise _error(row["refused"])
                        yield _merged([_REPORT.validate_json(text) for text in row["reports"]])

    def _dataset(self, span: Span, units: Sequence[int]) -> ray.data.Dataset:
        rows = [{"unit": unit} for unit in units]
        dataset: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        spans = _spans(span)
        for index, part in enumerate(spans):
            resources = _resources(part)
            low, high = _workers(resources, len(units), len(spans))
            dataset = dataset.map_batches(
                ChainWorker,
                batch_size=1,
                fn_constructor_args=(with_workers(part, high), index == len(spans) - 1),
                compute=_pool(low, high, len(units), at_once=resources.gpus > 0),
                num_cpus=resources.cpus,
                num_gpus=resources.gpus or None,
                memory=resources.memory,
            )
        return dataset

    def map(self, function: Callable[[T], R], items: Sequence[T], stop: Stop) -> Iterator[R]:
        remote: Any = ray.remote(num_cpus=1)(_apply)
        shared_function = ray.put(function)
        shared = iter(items)  # last in each zip: an item is taken only when there is a place for it
        most = 2 * max(1, int(_cluster().get("CPU", 1)))
        running = [remote.remote(shared_function, item) for _, item in zip(range(most), shared, strict=False)]
        while running and not stop.grace_is_over:
            self._services.check()
            done, running = ray.wait(running, num_returns=1, timeout=LOOK_SECONDS)
            if not stop.asked:
                running += [remote.remote(shared_function, item) for _, item in zip(done, shared, strict=False)]
            yield from _results(done)
        stop.check()


def _results(done: list[Any]) -> list[Any]:
    try:
        results: list[Any] = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError | OSError):  # the user's affair, and not for a stack trace
            raise error.cause from None
        raise
    return results


def _error(refused: str) -> Exception:
    """What a worker raised, as its own kind."""
    return ConfigError(refused.removeprefix(_CONFIG)) if refused.startswith(_CONFIG) else OSError(refused.removeprefix(_SYSTEM))


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _spans(span: Span) -> list[Span]:
    """The span in parts of equal resources, one chain each."""
    groups = bundles(span.plan.steps[span.start : span.end])
    starts = [group[0].index for group in groups]
    return [replace(span, start=start, end=end) for start, end in zip(starts, [*starts[1:], span.end], strict=True)]


def _resources(span: Span) -> Resources:
    stages: list[Step] = [step for step in span.plan.steps[span.start : span.end] if step.layer]
    return stages[0].stage.resources if stages else Resources()


def _workers(resources: Resources, units: int, chains: int) -> tuple[int, int]:
    """As many workers, at least and at most, as asked for; else, as many as the cluster's cores (or GPUs) hold beside the
    other chains."""
    if isinstance(resources.workers, tuple):
        return resources.workers
    workers = resources.workers or max(1, min(units, _fitting(resources, chains)))
    return workers, workers


def _pool(low: int, high: int, units: int, *, at_once: bool) -> ray.data.ActorPoolStrategy:
    """Few units are shared out evenly: else the worker that starts first takes all that fit it, and the others idle."""
    in_flight = max(1, min(UNITS_IN_FLIGHT, -(-units // high)))
    waiting = 2 if in_flight == UNITS_IN_FLIGHT else 0
    return ray.data.ActorPoolStrategy(
        min_size=low,
        max_size=high,
        initial_size=high if at_once else low,
        max_tasks_in_flight_per_actor=in_flight + waiting,
        max_concurrent_calls_per_actor=in_flight,
        enable_true_multi_threading=True,
    )


def _fitting(resources: Resources, chains: int) -> int:
    there = _cluster()
    if resources.gpus:
        return int(there.get("GPU", 0) // resources.gpus)
    return int(there.get("CPU", 1) // resources.cpus // chains)


def _cluster() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray has no stub for it
    return resources


def _merged(reports: list[UnitReport]) -> UnitReport:
    first = reports[0]
    stages = {name: stage for report in reports for name, stage in report.stages.items()}
    return UnitReport(first.unit, first.rows, stages, {name: rule for report in reports for name, rule in report.rules.items()})


@contextmanager
def open_runner(address: str | None = None) -> Iterator[RayRunner]:
    """Join the user's cluster (`address`, else RAY_ADDRESS), or start a local one for the length of the block."""
    started_here = not ray.is_initialized()
    handler = signal.getsignal(signal.SIGTERM)
    if started_here:
        _start(address)
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield RayRunner()
    finally:
        if started_here:
            _shut_down(handler)


def _shut_down(handler: Any) -> None:
    """End Ray. It takes a second, in which Ray's C++ part sets SIGTERM to what kills a process at once: so `handler`, which was
    there before Ray, is put back until it stays."""
    if threading.current_thread() is not threading.main_thread() or handler is None:  # None: not Python's
        ray.shutdown()
        return
    ending = threading.Thread(target=ray.shutdown)
    ending.start()
    while ending.is_alive():
        signal.signal(signal.SIGTERM, handler)
        ending.join(_LOOK_AT_SIGNALS)
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Ray's C++ part tells stderr of its own log level; whatever goes wrong comes as an exception."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _start(address: str | None) -> None:
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        with _quiet_stderr():
            ray.init(
                where, include_dashboard=False if where == "local" else None, logging_level=logging.ERROR, log_to_driver=False
            )
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster at {where}: {error}") from None
