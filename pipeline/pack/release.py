"""The release: a table of the kept rows without their images, for people who fetch these themselves.

    release/00000.parquet …    so many rows each, in the input's order
    release/subset.npy         DataComp's list of uids: sorted, dtype u8,u8 (https://github.com/mlfoundations/datacomp)

Files are written whole, the same bytes for the same rows. An uid that is not 32 hex digits has no place in a subset.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.parquet import parquet_options
from pairsift.pipeline.ledger.ranges import Numbers
from pairsift.pipeline.plan import Plan
from pairsift.stages import sql
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder

FOLDER = "release"
SUBSET = "subset.npy"
_OURS = re.compile(r"\d{5,}\.parquet|subset\.npy")
UID = np.dtype("u8,u8")  # of a subset
_GROUP = 1 << 17  # rows of a row group
Kept = Callable[[set[str]], Iterator[pa.Table]]  # columns → the kept rows with these, in order, in tables of any length

# Theirs: ours; of several of ours, the first that is known. https://laion.ai/blog/laion-5b/ and the files' own columns.
_PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "laion": {
        "URL": ("url",),
        "TEXT": ("caption",),
        "WIDTH": ("original_width", "WIDTH", "listed_width"),
        "HEIGHT": ("original_height", "HEIGHT", "listed_height"),
        "similarity": ("clip_similarity", "similarity"),
        "LANGUAGE": ("language",),
        "hash": ("hash",),
        "pwatermark": ("pwatermark",),
        "punsafe": ("punsafe",),
        "AESTHETIC_SCORE": ("aesthetic",),
    },
    "datacomp": {
        "uid": ("uid",),
        "url": ("url",),
        "text": ("caption",),
        "original_width": ("original_width",),
        "original_height": ("original_height",),
        "clip_b32_similarity_score": ("clip_b32_similarity_score", "b32_clip_similarity"),
        "clip_l14_similarity_score": ("clip_l14_similarity_score", "l14_clip_similarity"),
        "face_bboxes": ("face_bboxes",),
        "sha256": ("sha256",),
    },
}


def columns_of(plan: Plan) -> dict[str, str]:
    """The release's columns: name and SQL. Raises ConfigError for an expression that does not work, or where none is known."""
    release = plan.config.release
    assert release is not None
    types = pa.schema([field for layer in plan.layers for field in layer.schema if field.name in layer.columns])
    if isinstance(release.columns, str):
        found = {
            theirs: sql.quoted(next(name for name in ours if name in types.names))
            for theirs, ours in _PRESETS[release.columns].items()
            if any(name in types.names for name in ours)
        }
    else:
        found = release.columns
    if not found:
        raise ConfigError(f"release.columns: names no column that is known; there are: {', '.join(types.names)}")
    for name, expression in found.items():
        try:
            sql.typecheck(expression, types)
        except ConfigError as error:
            raise ConfigError(f"release.columns.{name}: {error}") from None
    return found


def name_of(number: int) -> str:
    """A file's name in the release's folder."""
    return f"{number:05d}.parquet"


def is_ours(name: str) -> bool:
    """Whether a file there is, or was, of a release."""
    return _OURS.fullmatch(name) is not None


def write_release(output: Folder, plan: Plan, kept: Kept) -> None:
    """Write the files, and remove those of an earlier release that are not in this one.

    Raises ConfigError where a subset is asked for and an uid is not 32 hex digits.
    """
    release = plan.config.release
    names: set[str] = set()
    if release is not None:
        columns, halves = columns_of(plan), list[Numbers]()
        tables = _tables(kept, columns, halves if release.subset else None)
        for number, groups in itertools.groupby(_groups(tables, release.rows), key=itemgetter(0)):
            names.add(name := name_of(number))
            _write(output, f"{FOLDER}/{name}", (table for _, table in groups))
        if release.subset:
            names.add(SUBSET)
            with output.create(f"{FOLDER}/{SUBSET}") as file:
                np.save(file, np.sort(np.concatenate([np.empty(0, UID), *halves])), allow_pickle=False)
    for name in output.names(FOLDER):
        if name not in names and is_ours(name):
            output.remove(f"{FOLDER}/{name}")


def _tables(kept: Kept, columns: Mapping[str, str], halves: list[Numbers] | None) -> Iterator[pa.Table]:
    """The release's columns; the uids go to `halves` on the way."""
    reads = {name for expression in columns.values() for name in sql.columns_of(expression)}
    for table in kept(reads | {"uid"}):
        if halves is not None:
            halves.append(_halves(table["uid"]))
        yield sql.select(columns, table)


def _halves(uids: pa.ChunkedArray) -> Numbers:
    """Each uid as two numbers of 64 bits, the higher first."""
    if not pc.all(pc.match_substring_regex(uids, "^[0-9a-f]{32}$")).as_py() and len(uids):
        raise ConfigError("release.subset: DataComp's list takes uids of 32 hex digits, and the input has others")
    numbers = np.frombuffer(bytes.fromhex("".join(uids.to_pylist())), ">u8").astype("<u8")
    return numbers.view(UID)


def _groups(tables: Iterable[pa.Table], rows: int) -> Iterator[tuple[int, pa.Table]]:
    """The number of a file, and one of its row groups. How long they are does not depend on how tables came in."""
    waiting, place = None, 0
    for table in tables:
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while (size := min(_GROUP, rows - place % rows)) <= len(waiting):
            yield place // rows, waiting.slice(0, size).combine_chunks()
            waiting, place = waiting.slice(size), place + size
    if waiting is not None and (len(waiting) or not place):
        yield place // rows, waiting.combine_chunks()


def _write(output: Folder, name: str, groups: Iterable[pa.Table]) -> None:
    writer = None
    with output.create(name) as file, ExitStack() as stack:
        for group in groups:
            writer = writer or stack.enter_context(pq.ParquetWriter(file, group.schema, **parquet_options(group.schema)))
            writer.write_table(group)
