"""Which shards there are to be: fates.parquet names them, their digests tell which are there already and which are sealed."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.control.machine import give_back
from pairsift.pipeline.cut.fate_table import FATES
from pairsift.pipeline.ledger.parquet import parquet_options
from pairsift.pipeline.ledger.ranges import Numbers
from pairsift.pipeline.pack import embeddings
from pairsift.pipeline.pack.rows import KEPT, REASONS, packed_columns
from pairsift.pipeline.pack.sample import offsets_and_bytes
from pairsift.pipeline.plan import Plan, fingerprint
from pairsift.pipeline.report.manifest import read_json
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder

FORMAT = 3  # raise it when the bytes of a shard change for the same members
_GROUP_ROWS = 1 << 14  # of fates.parquet, which are held, and what the writer makes of them: 10 MB
_FEW_VALUES = ["status", "code", "error_message", "rejected_by", "shard"]  # columns that a dictionary makes smaller


@dataclass(frozen=True)
class ShardTask:
    """One shard to be: where its members lie in the fates, how many, and their digest."""

    name: str
    first: int  # its members' ordinals are in [first, last]
    last: int
    rows: int  # in its Parquet
    samples: int  # in its tar: all rows but where `layout: img2dataset` lists the others, too
    digest: str


class _Members:
    """Counts and digests the members of each shard, as fates stream by in ordinal order."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        self._digests: dict[int, Any] = {}
        self._counts: dict[int, tuple[str, int, int, int, int]] = {}  # all of a task but its digest

    def add(self, batch: pa.Table) -> None:
        rows = batch.filter(batch["shard"].is_valid()).combine_chunks()
        if not len(rows):
            return
        numbers = pc.cast(rows["shard"], pa.int64()).to_numpy()
        if np.any(numbers[1:] < numbers[:-1]):  # shuffled
            order = np.argsort(numbers, kind="stable")
            rows, numbers = rows.take(pa.array(order)).combine_chunks(), numbers[order]
        ordinals = rows["ordinal"].to_numpy().astype("<i8")
        offsets, uids = offsets_and_bytes(rows["uid"].combine_chunks())
        kept = np.cumsum(np.append(0, pc.equal(rows["status"], KEPT).to_numpy()))
        starts = np.concatenate([[0], np.flatnonzero(numbers[1:] != numbers[:-1]) + 1])
        for start, end in itertools.pairwise([*starts.tolist(), len(rows)]):
            samples = int(kept[end] - kept[start])
            digest = self._count(int(numbers[start]), ordinals[start:end], samples)
            digest.update(ordinals[start:end].tobytes())
            digest.update(uids[offsets[start] : offsets[end]].tobytes())
            if samples < end - start:
                lost = rows.slice(start, end - start)
                for row in lost.filter(pc.not_equal(lost["status"], KEPT)).select(REASONS).to_pylist():
                    digest.update(json.dumps(row).encode())

    def _count(self, number: int, ordinals: Numbers, samples: int) -> Any:
        first = int(ordinals[0])
        if number not in self._digests:
            self._digests[number] = hashlib.blake2b(self._start, digest_size=16)
            self._counts[number] = (f"{number:05d}", first, first, 0, 0)
        name, first, _, rows, before = self._counts[number]
        self._counts[number] = (name, first, int(ordinals[-1]), rows + len(ordinals), before + samples)
        return self._digests[number]

    def tasks(self) -> list[ShardTask]:
        return [ShardTask(*self._counts[number], self._digests[number].hexdigest()) for number in sorted(self._counts)]


def write_fates(output: Folder, batches: Iterable[pa.RecordBatch], plan: Plan, *, replace: bool) -> list[ShardTask]:
    """Write fates.parquet, and return the shards that it names, in order.

    Raises ConfigError, and leaves the old file, where a published shard would change or go and `replace` is not set.
    """
    members = _Members(_digest_start(plan))
    with output.create("fates.parquet") as file:
        with pq.ParquetWriter(file, FATES, **parquet_options(FATES, _FEW_VALUES)) as writer:
            for batch in _regular(batches):
                writer.write_table(batch)
                members.add(batch)
        tasks = members.tasks()
        if not replace and (why := broken_seals(output, tasks, plan)):
            raise ConfigError(
                f"{output.uri}: {why}; `--replace` rewrites them, another `output` with the same `work` leaves them"
            )
    return tasks


def planned_shards(batches: Iterable[pa.RecordBatch], plan: Plan) -> list[ShardTask]:
    """The shards that fates name, in order; nothing is written."""
    members = _Members(_digest_start(plan))
    for batch in _regular(batches):
        members.add(batch)
    return members.tasks()


def shards_to_write(plan: Plan, tasks: list[ShardTask]) -> list[ShardTask]:
    """The tasks whose shard is not there with the same digest and all its files."""
    output = Folder(plan.config.output)
    there = _digests(output, [task.name for task in tasks])
    lacking = embeddings.missing(output, plan.embeddings, there)
    return [task for task in tasks if there.get(task.name) != task.digest or task.name in lacking]


def finish_shards(plan: Plan, tasks: list[ShardTask]) -> None:
    """Remove shards that the cut no longer has, and write sizes.json."""
    output = Folder(plan.config.output)
    wanted = {task.name for task in tasks}
    names = sorted(output.names("shards"), key=lambda name: not name.endswith("_stats.json"))  # first what says "done"
    for name in names:
        if _shard_of(name) not in {None, *wanted}:
            output.remove(f"shards/{name}")
    embeddings.remove_others(output, plan.embeddings, wanted)
    sizes = {f"{task.name}.tar": task.samples for task in tasks}
    output.write("shards/sizes.json", json.dumps(sizes, indent=4).encode())


def broken_seals(output: Folder, tasks: list[ShardTask], plan: Plan) -> str | None:
    """Which published shards these tasks would change, and why; None where none would. A shard is sealed once a run of this
    cut, without a limit, has ended. Another cut was let in by `claim`."""
    published = read_json(output, "run.json")
    if published is None or published.get("limit") is not None or published.get("cut") != plan.cut_fingerprint():
        return None
    wanted = {task.name: task.digest for task in tasks}
    names = sorted({name for file in output.names("shards") if (name := _shard_of(file))}, key=int)
    broken = [name for name, digest in _digests(output, names).items() if wanted.get(name) != digest]
    if not broken:
        return None
    return (
        f"{len(broken):,} of the published shards would change or go, the first is {broken[0]}: new rows moved what a rule "
        "over all rows keeps (a percentile, a duplicate's keeper), or results were computed anew"
    )


def _shard_of(file: str) -> str | None:
    """The name of the shard that a file is of."""
    stem = file.split(".", maxsplit=1)[0].removesuffix("_stats")
    return stem if stem.isdigit() else None


def _digests(output: Folder, names: list[str]) -> dict[str, str]:
    """The digests of those shards whose three files are there, in order."""
    there = set(output.names("shards"))
    whole = [name for name in names if {f"{name}.tar", f"{name}.parquet", f"{name}_stats.json"} <= there]
    paths = [output.path(f"shards/{name}_stats.json") for name in whole]
    none = [None] * len(paths)
    found = output.filesystem.cat_ranges(paths, none, none, on_error="return") if paths else []  # on a store: all at once
    digests = {}
    for name, data in zip(whole, found, strict=True):
        try:
            digests[name] = str(json.loads(data)["digest"])
        except (ValueError, KeyError, TypeError):  # damaged, or gone meanwhile
            continue
    return digests


def _digest_start(plan: Plan) -> bytes:
    seed = plan.config.shards.shuffle_seed
    order: list[dict[str, Any]] = [] if seed is None else [{"shuffle_seed": seed}]
    keys = [] if plan.config.shards.keys == "ordinal" else [plan.config.shards.keys]
    vectors = [plan.embeddings] if plan.embeddings else []
    return fingerprint(FORMAT, [layer.name for layer in plan.layers], packed_columns(plan), *order, *keys, *vectors).encode()


def _regular(batches: Iterable[pa.RecordBatch], rows: int = _GROUP_ROWS) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, so that the file's row groups do not depend on how batches came in. Nothing is held
    here of what was given."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        start = 0
        while count + len(batch) - start >= rows:
            waiting.append(batch.slice(start, rows - count))
            start, count = start + rows - count, 0
            yield _whole(waiting)
        if start < len(batch):
            waiting.append(batch.slice(start))
            count += len(batch) - start
    if count:
        yield _whole(waiting)


def _whole(waiting: list[pa.RecordBatch]) -> pa.Table:
    """One table of these batches, which are let go."""
    give_back()  # what the last one took
    table = pa.Table.from_batches(waiting, FATES)
    waiting.clear()
    return table.combine_chunks()
