"""The embeddings beside shards: is each file there, whole, and of the shard's samples?"""

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.pack import embeddings
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.problems import Findings, reason
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder

if TYPE_CHECKING:
    from pairsift.pipeline.upkeep.check_shards import ShardCheck

_KEPT = Status.SUCCESS.value
_ROUNDING = 0.01  # how far from 1 the length of a vector may be


def with_embeddings(output: Folder, checks: "list[ShardCheck]", found: Findings) -> "list[ShardCheck]":
    """The checks, with the files that each has to look at: where one shard has a kind of file, each has."""
    there = embeddings.listed(output)
    kinds = sorted({file.removesuffix(_end(file)) for file in there})
    ends = {file.removesuffix(_end(file)): file.rpartition(".")[2] for file in there}
    names = {check.name for check in checks}
    for file in sorted(file for file in there if embeddings.shard_of(file) not in names):
        found.add(output.path(file), "there is no such shard", "run again: it is removed")
    return [replace(check, embeddings=tuple(f"{kind}{check.name}.{ends[kind]}" for kind in kinds)) for check in checks]


def look_at_embeddings(found: Findings, output: Folder, file: str, rows: pa.Table | None) -> None:
    """One file of one shard. `rows` are the shard's, None where they cannot be read."""
    found.count("files of embeddings")
    try:
        fault = _fault(output.read(file), file, rows)
    except FileNotFoundError:
        found.add(output.path(file), "is missing", "run again: only that shard is written again")
        return
    except (ValueError, EOFError, OSError, pa.ArrowException) as error:
        fault = f"cannot be read: {reason(error)}"
    if fault:
        path = output.path(file)
        found.add(path, fault, f"remove {path} and run again: only that shard is written again", [path])


def _fault(data: bytes, file: str, rows: pa.Table | None) -> str | None:
    keys = None if rows is None else rows.filter(pc.equal(rows["status"], _KEPT))["key"].to_pylist()
    if file.endswith(".parquet"):
        named = tables.parse(data, ["image_path"])["image_path"].to_pylist()
        return "its rows are not the shard's samples" if keys is not None and named != keys else None
    vectors = np.load(BytesIO(data), allow_pickle=False)
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        return f"holds {vectors.dtype} of shape {vectors.shape}, not vectors in float16"
    if keys is not None and len(vectors) != len(keys):
        return f"has {len(vectors):,} vectors, the shard {len(keys):,} samples"
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~((np.abs(lengths - 1) < _ROUNDING) | (lengths == 0)))
    return f"vector {wrong[0]:,} is neither of length 1 nor zero" if len(wrong) else None


def _end(file: str) -> str:
    return file.rpartition("_")[2]
