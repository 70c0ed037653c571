"""One shard: is its tar whole, and do the tar, the Parquet, the counts and the fates say the same?"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.pack.sample import plain
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.archives import IMAGE_FORMATS, DamagedTarError, Member, image_fault, walk
from pairsift.pipeline.upkeep.check_embeddings import look_at_embeddings
from pairsift.pipeline.upkeep.problems import AGAIN, Findings, reason
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder

_KEPT = Status.SUCCESS.value
Row = dict[str, Any]


@dataclass
class Expected:
    """What fates.parquet says of one shard."""

    rows: int = 0
    kept: int = 0
    uids: int = 0  # see uid_sum


@dataclass(frozen=True)
class ShardCheck:
    """One shard to be looked at, in any process."""

    folder: Folder
    name: str
    size: int | None  # samples by sizes.json, None where it has no word on the shard
    fates: Expected | None  # None where there are no fates
    images_are_ours: bool  # else a broken image may have been broken at its source
    bodies_as_they_came: bool  # `sha256` is the hash of the stored bytes
    embeddings: tuple[str, ...] = ()  # files with vectors of its samples, relative to the output

    def __call__(self) -> Findings:
        found = Findings()
        found.count("shards")
        missing = [s for s in (".tar", ".parquet", "_stats.json") if not self.folder.exists(f"{self.name}{s}")]
        for suffix in missing:
            found.add(self._path(suffix), "is missing", self._remedy())
        table = None if ".parquet" in missing else self._table(found)
        stats = None if "_stats.json" in missing else self._stats(found)
        samples = None if ".tar" in missing else self._samples(found, table, stats)
        if table is not None:
            self._compare(found, table, stats, samples)
        for file in self.embeddings:
            look_at_embeddings(found, Folder(self.folder.uri.rpartition("/")[0]), file, table)
        if samples is not None and self.size is not None and samples != self.size:
            path = self.folder.path("sizes.json")
            found.add(path, f"says {self.size:,} samples for {self.name}.tar, which has {samples:,}", *_again(path))
        return found

    def _path(self, suffix: str) -> str:
        return self.folder.path(f"{self.name}{suffix}")

    def _remedy(self) -> str:
        return f"run again: only shard {self.name} is written again"

    def _bad(self, found: Findings, suffix: str, what: str) -> None:
        path = self._path(suffix)
        found.add(path, what, f"remove {path} and {self._remedy()}", [path])

    def _table(self, found: Findings) -> pa.Table | None:
        try:
            return tables.read_table(self.folder, f"{self.name}.parquet")
        except (pa.ArrowException, OSError) as error:
            self._bad(found, ".parquet", f"cannot be read: {reason(error)}")
        return None

    def _stats(self, found: Findings) -> Row | None:
        try:
            stats = json.loads(self.folder.read(f"{self.name}_stats.json"))
            if isinstance(stats, dict) and isinstance(stats.get("count"), int):
                return stats
        except ValueError:
            pass
        self._bad(found, "_stats.json", "is not what a shard's _stats.json is")
        return None

    def _samples(self, found: Findings, table: pa.Table | None, stats: Row | None) -> int | None:
        """Compare each sample with its row; returns how many there are, None where the tar is damaged."""
        rows = [] if table is None else table.filter(pc.equal(table["status"], _KEPT)).to_pylist()
        ours = stats is not None and "digest" in stats
        faults: list[str] = []
        count = 0
        path = f"{self.name}.tar"
        try:
            size = self.folder.filesystem.size(self.folder.path(path))
            with self.folder.filesystem.open(self.folder.path(path), "rb") as file:
                for key, members in _grouped(walk(file, size)):
                    row = rows[count] if count < len(rows) else None
                    count += 1
                    if table is not None and (row is None or row["key"] != key):
                        faults.append(f"sample {count} is {key!r}, its Parquet has {row['key'] if row else 'no such row'!r}")
                    elif fault := self._sample_fault(members, row, ours=ours):
                        faults.append(f"{key}: {fault}")
        except DamagedTarError as error:
            self._bad(found, ".tar", f"is damaged: {error}")
            return None
        found.count("samples", count)
        if faults:
            more = f" (and {len(faults) - 1:,} more like it)" if len(faults) > 1 else ""
            self._bad(found, ".tar", f"{faults[0]}{more}")
        return count

    def _sample_fault(self, members: dict[str, bytes], row: Row | None, *, ours: bool) -> str | None:
        images = [extension for extension in members if extension in IMAGE_FORMATS]
        for extension in images if self.images_are_ours else ():
            if fault := image_fault(members[extension], extension):
                return f"its image {fault}"
        if not ours:
            return None
        if not {"json", "txt"} <= members.keys() or len(members) < 3:
            return f"has {', '.join(sorted(members)) or 'nothing'}, not an image, json and txt"
        return None if row is None else self._row_fault(members, row)

    def _row_fault(self, members: dict[str, bytes], row: Row) -> str | None:
        try:
            told = json.loads(members["json"])
        except ValueError:
            return "its json is not JSON"
        differs = [name for name, value in row.items() if told.get(name) != plain(value)]
        if differs:
            return f"its json and the Parquet differ in {', '.join(differs)}"
        if members["txt"] != (row.get("caption") or "").encode("utf-8", "surrogatepass"):
            return "its txt is not the caption"
        image = next(data for extension, data in members.items() if extension not in ("json", "txt"))
        if self.bodies_as_they_came and row.get("sha256") not in (None, hashlib.sha256(image).hexdigest()):
            return "its image does not have the sha256 that was noted when it came"
        return None

    def _compare(self, found: Findings, table: pa.Table, stats: Row | None, samples: int | None) -> None:
        kept = pc.sum(pc.equal(table["status"], _KEPT)).as_py() or 0
        if samples is not None and samples != kept:
            self._bad(found, ".tar", f"has {samples:,} samples, its Parquet {kept:,}")
        if stats is not None and (stats["count"], stats.get("successes")) != (len(table), kept):
            told = f"says {stats['count']} rows, {stats.get('successes')} kept"
            self._bad(found, "_stats.json", f"{told}; the Parquet has {len(table):,} and {kept:,}")
        if self.fates is None or "uid" not in table.column_names:
            return
        if (len(table), kept) != (self.fates.rows, self.fates.kept):
            self._bad(found, ".parquet", f"has {len(table):,} rows, fates.parquet names {self.fates.rows:,}")
        elif uid_sum(table["uid"]) != self.fates.uids:
            self._bad(found, ".parquet", "its rows are not those that fates.parquet puts there")


def uid_sum(uids: pa.ChunkedArray) -> int:
    """Tells one set of rows from another; their order, which a shuffle changes, does not matter."""
    return sum(map(zlib.crc32, uids.cast(pa.binary()).to_pylist()))


def _again(path: str) -> tuple[str, list[str]]:
    return f"remove {path} and {AGAIN}", [path]


def _grouped(members: Iterator[Member]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: data}) of the samples; the members of one follow each other."""
    key: str | None = None
    sample: dict[str, bytes] = {}
    for member in members:
        stem, _, extension = member.name.partition(".")
        if stem != key or extension in sample:
            if key is not None:
                yield key, sample
            key, sample = stem, {}
        sample[extension] = member.data
    if key is not None:
        yield key, sample
