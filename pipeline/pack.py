"""Pack: the cut says which row goes to which shard; each shard is an independent task that copies byte ranges.

    shards/00000.tar, 00000.parquet, 00000_stats.json, sizes.json    the layout of img2dataset, open_clip and webdataset

Row i of a shard's Parquet is sample i of its tar. The same members give the same bytes, so a shard whose digest stands
in its `_stats.json` is not written again. The stats file comes last: a shard without it is not there.
"""

import base64
import datetime
import decimal
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.cut import FATES
from pairsift.pipeline.intake import Generation, read_generations
from pairsift.pipeline.ledger import Layer, Ledger, Numbers
from pairsift.pipeline.plan import Plan, fingerprint
from pairsift.pipeline.tar import TarWriter
from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder

FORMAT = 1  # raise it when the bytes of a shard change for the same members
IMAGES_AT_ONCE = 256  # how many images are held in memory while a tar is written
_COLUMNS_OF_IMG2DATASET = (
    *("caption", "url", "key", "status", "error_message"),
    *("width", "height", "original_width", "original_height", "exif", "sha256"),
)
_KEPT = Status.SUCCESS.value
_REASONS = ["status", "code", "error_message", "rejected_by"]  # of a row's fate
_NOT_PACKED = {"ordinal", "image_path", "image_offset", "image_length", "image_format"}


@dataclass(frozen=True)
class ShardTask:
    """One shard to be: where its members lie in the fates, how many, and their digest."""

    name: str
    first: int  # ordinals [first, last]
    last: int
    rows: int  # in its Parquet
    samples: int  # in its tar: all rows but where `layout: img2dataset` lists the others, too
    digest: str


@dataclass(frozen=True)
class Packer:
    """Writes one shard per call, in any process."""

    plan: Plan

    def __call__(self, task: ShardTask) -> int:
        """Write the shard and return how many rows it holds."""
        output = Folder(self.plan.config.output)
        ledger = Ledger(self.plan.config.work)
        rows = _members(output, task)
        table = _table(self.plan, ledger, rows)
        if self.plan.config.shards.lists_all:
            keys = keys_of_img2dataset(int(task.name), len(table), self.plan.config.shards.rows)
            table = table.set_column(table.column_names.index("key"), schema.KEY, pa.array(keys, pa.string()))
        output.remove(f"shards/{task.name}_stats.json")
        _write_tar(output, f"shards/{task.name}.tar", ledger, table.filter(pc.equal(table["status"], _KEPT)))
        public = table.select(packed_columns(self.plan))
        sink = BytesIO()
        pq.write_table(public, sink, compression="zstd", row_group_size=max(1, len(public)))
        output.write(f"shards/{task.name}.parquet", sink.getvalue())
        output.write(f"shards/{task.name}_stats.json", json.dumps(_stats(task, public), indent=4).encode())
        return task.rows


def write_fates(output: Folder, batches: Iterable[pa.RecordBatch], plan: Plan) -> list[ShardTask]:
    """Write fates.parquet, and return the shards that it names, in order."""
    tasks: list[ShardTask] = []
    current: dict[str, Any] = {}
    with output.create("fates.parquet") as file, pq.ParquetWriter(file, FATES, compression="zstd") as writer:
        for batch in _regular(batches):
            writer.write_table(batch)
            for name, rows in _shards_in(batch):
                if current.get("name") != name:
                    tasks += _finished(current)
                    current = {
                        "name": name,
                        "first": rows["ordinal"][0].as_py(),
                        "rows": 0,
                        "samples": 0,
                        "hash": _new_digest(plan),
                    }
                _update(current["hash"], rows)
                current["last"], current["rows"] = rows["ordinal"][-1].as_py(), current["rows"] + len(rows)
                current["samples"] += pc.sum(pc.equal(rows["status"], _KEPT)).as_py()
    return tasks + _finished(current)


def shards_to_write(output: Folder, tasks: list[ShardTask]) -> list[ShardTask]:
    """The tasks whose shard is not there with the same digest."""
    there = set(output.names("shards"))
    whole = {task.name for task in tasks if {f"{task.name}.tar", f"{task.name}.parquet"} <= there}
    return [task for task in tasks if task.name not in whole or _digest_of(output, task.name) != task.digest]


def finish_shards(output: Folder, tasks: list[ShardTask]) -> None:
    """Remove shards that the cut no longer has, and write sizes.json."""
    wanted = {task.name for task in tasks}
    names = sorted(output.names("shards"), key=lambda name: not name.endswith("_stats.json"))  # first what says "done"
    for name in names:
        stem = name.split(".")[0].removesuffix("_stats")
        if stem.isdigit() and stem not in wanted:
            output.remove(f"shards/{name}")
    sizes = {f"{task.name}.tar": task.samples for task in tasks}
    output.write("shards/sizes.json", json.dumps(sizes, indent=4).encode())


def packed_columns(plan: Plan) -> list[str]:
    """The columns of a shard's Parquet: the input's own, img2dataset's, uid, then what stages added, in their order."""
    known = [f for layer in plan.layers for f in layer.schema if f.name in layer.columns]
    packed = [f.name for f in known if f.name not in _NOT_PACKED and not _is_vector(f.type)]
    standard = [c for c in _COLUMNS_OF_IMG2DATASET if c in packed or c in ("status", "error_message")]
    own = [c for c in plan.intake.columns if c in packed and c not in standard and c != "uid"]
    return [*own, *standard, "uid", *(c for c in packed if c not in own and c not in standard and c != "uid")]


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _new_digest(plan: Plan) -> Any:
    start = fingerprint(FORMAT, [layer.name for layer in plan.layers], packed_columns(plan))
    return hashlib.blake2b(start.encode(), digest_size=16)


def _update(digest: Any, rows: pa.Table) -> None:
    digest.update(rows["ordinal"].to_numpy().astype("<i8").tobytes())
    digest.update("".join(rows["uid"].to_pylist()).encode())
    for row in rows.filter(pc.not_equal(rows["status"], _KEPT)).select(_REASONS).to_pylist():
        digest.update(json.dumps(row).encode())


def keys_of_img2dataset(shard: int, rows: int, shard_rows: int) -> list[str]:
    """The keys of a shard's rows: its number, then the place in it, in as many digits as `shard_rows` rows need."""
    digits = math.ceil(math.log10(shard_rows))
    return [f"{shard * 10**digits + place:0{digits + 5}d}" for place in range(rows)]


def _finished(current: dict[str, Any]) -> list[ShardTask]:
    if not current:
        return []
    digest = current.pop("hash").hexdigest()
    return [ShardTask(**current, digest=digest)]


def _shards_in(batch: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(shard, fates) of the rows that are in one, in order; the rows of one shard follow each other."""
    kept = batch.filter(batch["shard"].is_valid())
    if not len(kept):
        return
    names = kept["shard"].to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1, [len(names)]])
    for start, end in itertools.pairwise(starts):
        yield names[start], kept.slice(start, end - start)


def _regular(batches: Iterable[pa.RecordBatch], rows: int = 1 << 17) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, so that the file's row groups do not depend on how batches came in."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= rows:
            table = pa.Table.from_batches(waiting, FATES)
            yield table.slice(0, rows).combine_chunks()
            waiting, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(waiting, FATES).combine_chunks()


def _digest_of(output: Folder, name: str) -> str | None:
    try:
        return str(json.loads(output.read(f"shards/{name}_stats.json")).get("digest"))
    except (FileNotFoundError, ValueError):
        return None


def _members(output: Folder, task: ShardTask) -> pa.Table:
    bounds = [("ordinal", ">=", task.first), ("ordinal", "<=", task.last), ("shard", "==", task.name)]
    columns = ["ordinal", *_REASONS]
    return pq.read_table(output.path("fates.parquet"), columns=columns, filters=bounds, filesystem=_filesystem(output))


def _filesystem(folder: Folder) -> Any:
    return None if folder.local else folder.filesystem


def _table(plan: Plan, ledger: Ledger, rows: pa.Table) -> pa.Table:
    """The members with all columns that a shard needs, in ordinal order. Null where a row that was not kept lacks them."""
    ordinals = rows["ordinal"].to_numpy()
    kept = pc.equal(rows["status"], _KEPT).to_numpy()
    generations = read_generations(ledger)
    units = _units_of(ordinals, generations)
    table = rows.select(["ordinal"])
    for layer in plan.layers:
        wanted = [c for c in layer.columns if not _is_vector(layer.schema.field(c).type)]
        joined = _read(ledger, layer, units, wanted)
        there = joined["ordinal"].to_numpy()
        places = np.searchsorted(there, ordinals)
        lacking = ~np.isin(ordinals, there)
        if np.any(lacking & kept):
            raise OSError(f"{ledger.work.uri}: the layer {layer.name} lacks rows that the cut has kept")
        taken = joined.take(pa.array(places, mask=lacking))
        for column in wanted:
            table = table.append_column(layer.schema.field(column), taken[column].combine_chunks())
    table = table.append_column(pa.field("status", pa.string()), rows["status"])
    message = pc.coalesce(rows["error_message"], rows["code"], rows["rejected_by"])
    return table.append_column("error_message", message)


def _read(ledger: Ledger, layer: Layer, units: list[int], columns: list[str]) -> pa.Table:
    """What the layer has of these units, in ordinal order."""
    names = ["ordinal", *columns]
    found = [table.select(names) for unit in units if (table := ledger.read(layer, unit, columns)) is not None]
    return pa.concat_tables(found) if found else pa.schema([layer.schema.field(name) for name in names]).empty_table()


def _units_of(ordinals: Numbers, generations: list[Generation]) -> list[int]:
    units: list[int] = []
    for g in generations:
        inside = ordinals[(ordinals >= g.first_ordinal) & (ordinals < g.end_ordinal)]
        units += np.unique(g.first_unit + (inside - g.first_ordinal) // g.unit_rows).tolist()
    return units


def _write_tar(output: Folder, name: str, ledger: Ledger, table: pa.Table) -> None:
    if "image_path" not in table.column_names:
        raise ConfigError("nothing gives images: add a `download` stage, or read a dataset that has them")
    columns = [c for c in table.column_names if c not in _NOT_PACKED]
    with output.create(name) as file:
        tar = TarWriter(file)
        for start in range(0, len(table), IMAGES_AT_ONCE):
            part = table.slice(start, IMAGES_AT_ONCE)
            images = ledger.read_images(part)
            rows = part.select(columns).to_pylist()
            for row, extension, image in zip(rows, part["image_format"].to_pylist(), images, strict=True):
                _add_sample(tar, row, extension, memoryview(image.as_buffer()))
        tar.close()


def _add_sample(tar: TarWriter, row: dict[str, Any], extension: str, image: memoryview) -> None:
    members = {
        extension: image,
        "json": json.dumps({name: plain(value) for name, value in row.items()}, indent=4).encode(),
        "txt": (row.get("caption") or "").encode("utf-8", "surrogatepass"),
    }
    for suffix in sorted(members):
        tar.add(f"{row['key']}.{suffix}", members[suffix])


def plain(value: Any) -> Any:
    """What JSON can hold of an Arrow value: not-a-number is null, bytes are base64, times are ISO 8601."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def _stats(task: ShardTask, rows: pa.Table) -> dict[str, Any]:
    """img2dataset's fields, and the other statuses where the shard lists such rows. Its three times are 0: a shard holds
    nothing that two runs would not share."""
    statuses, messages = rows["status"].to_pylist(), rows["error_message"].to_pylist()
    counts = Counter(statuses)
    reasons = Counter(message or status for message, status in zip(messages, statuses, strict=True))
    return {
        "count": task.rows,
        "successes": counts.pop(_KEPT, 0),
        "failed_to_download": counts.pop(Status.FAILED_TO_DOWNLOAD.value, 0),
        "failed_to_resize": counts.pop(Status.FAILED_TO_RESIZE.value, 0),
        **dict(sorted(counts.items())),
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": dict(sorted(reasons.items())),
        "digest": task.digest,
    }
