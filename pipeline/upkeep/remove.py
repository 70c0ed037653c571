"""Takedowns: samples leave the shards, their bytes leave the payloads, and a tombstone sees to it that they stay away.

In this order, so that a kill between any two leaves something that the same command ends:

    removed.json          the places in published shards that will be empty
    tombstones/…          from here on the rows are dead: no run reads, fetches or packs them
    payloads              their images' bytes become zeros, in place; nothing else moves
    shards                those that hold one are removed, and written again without it
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.control.lock import hold
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.ledger import tombstones
from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.intake import Intake, read_generations
from pairsift.pipeline.ledger.layers import Ledger, Numbers
from pairsift.pipeline.ledger.tombstones import Tombstones
from pairsift.pipeline.pack import embeddings
from pairsift.pipeline.plan import Plan
from pairsift.pipeline.report.manifest import read_json
from pairsift.pipeline.report.survey import output_config
from pairsift.pipeline.results import Results
from pairsift.pipeline.run import Options, run
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.payloads import Ranges, images_of, zero
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Status
from pairsift.stages.storage import Folder


@dataclass
class Removal:
    """What a request to remove comes to. Counts are of rows of this work folder, those of earlier requests included."""

    listed: int  # entries of the list
    unknown: list[str] = field(default_factory=list)  # keys of no row: the only entries without effect
    rows: int = 0
    duplicates: int = 0  # of `rows`, those that are there only because a row on the list was kept in their place
    images: int = 0  # whose bytes are still in payloads
    bytes: int = 0
    elsewhere: list[str] = field(default_factory=list)  # files with such images that are not ours, and stay as they are
    shards: list[str] = field(default_factory=list)  # that hold such samples
    done: bool = False
    complete: bool = False  # the shards are written again; else the next run does it

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def remove(output: str, entries: list[tuple[str, str]], *, yes: bool, keep_duplicates: bool = False) -> Removal:
    """Remove the rows that a list names: see takedowns.py. Without `yes`, only say what that comes to.

    A key stands for its row's uid. Rows that were rejected as duplicates of these go with them, unless `keep_duplicates`.
    Raises ConfigError where `output` is none, or a run is at work on it.
    """
    remover = _Remover(Results(output_config(output)).plan, entries, keep_duplicates=keep_duplicates)
    if not yes:
        return remover.look()
    with hold(remover.output), hold(remover.ledger.work):
        removal = remover.go()
    removal.complete = _write_again(remover.plan)
    return removal


class _Remover:
    def __init__(self, plan: Plan, entries: list[tuple[str, str]], *, keep_duplicates: bool) -> None:
        self.plan, self._entries, self._keep_duplicates = plan, entries, keep_duplicates
        self.ledger, self.output = Ledger(plan.config.work), Folder(plan.config.output)
        self._generations = read_generations(self.ledger)
        self._blocks = Blocks(self.ledger, self._generations, sum(g.rows for g in self._generations))

    def look(self) -> Removal:
        return self._look()[0]

    def go(self) -> Removal:
        removal, wanted, ordinals, ranges = self._look()
        self._hold_places(ordinals)
        tombstones.add(self.ledger.work, wanted)
        for path, places in ranges.items():
            zero(self.ledger.work, path, places)
        for name in removal.shards:
            for suffix in ("_stats.json", ".tar", ".parquet"):  # first what says that it is there
                self.output.remove(f"shards/{name}{suffix}")
        for file in embeddings.listed(self.output):
            if embeddings.shard_of(file) in removal.shards:
                self.output.remove(file)
        removal.done = True
        return removal

    def _look(self) -> tuple[Removal, set[tuple[str, str]], Numbers, Ranges]:
        """What there is to do: for all tombstones, since an earlier request may have been cut short."""
        removal = Removal(len(self._entries))
        listed = set(self._without_keys(removal)) | Tombstones.load(self.ledger.work).pairs()
        ordinals = self._rows_of(Tombstones.of(listed))
        wanted = listed
        if not self._keep_duplicates:
            wanted = listed | {("uid", uid) for uid in self._uids_of_duplicates(ordinals)}
            removal.duplicates = -len(ordinals)
            ordinals = self._rows_of(Tombstones.of(wanted))
            removal.duplicates += len(ordinals)
        ranges, removal.elsewhere = images_of(self.ledger, self._generations, ordinals)
        removal.rows = len(ordinals)
        removal.images = sum(map(len, ranges.values()))
        removal.bytes = sum(length for places in ranges.values() for _, length in places)
        removal.shards = list(self._shards_with(Tombstones.of(wanted)))
        return removal, wanted, ordinals, ranges

    def _without_keys(self, removal: Removal) -> Iterator[tuple[str, str]]:
        keys = {value for kind, value in self._entries if kind == "key"}
        yield from (entry for entry in self._entries if entry[0] != "key")
        found: set[str] = set()
        for block in range(self._blocks.count) if keys else ():
            table = self._blocks.read(self.plan.intake, block, ["key", "uid"])
            rows = table.filter(pc.is_in(table["key"], pa.array(sorted(keys)))).to_pylist()
            found |= {row["key"] for row in rows}
            yield from (("uid", row["uid"]) for row in rows)
        removal.unknown = sorted(keys - found)

    def _rows_of(self, wanted: Tombstones) -> Numbers:
        """Ordinals, rising."""
        blocks = range(self._blocks.count)
        found = [part for block in blocks for part in wanted.ordinals(self._blocks, self.plan, block)]
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def _uids_of_duplicates(self, ordinals: Numbers) -> set[str]:
        """Of the rows for which, in the last cut, one of these was kept; and of those for which they had been."""
        uids: set[str] = set()
        keys = self._fates(ordinals, ["key"])["key"].unique()
        while len(keys):
            found = [rows for batch in self._batches(["key", "uid", "duplicate_of"]) if (rows := _duplicates(batch, keys))]
            rows = pa.concat_tables(found) if found else None
            keys = rows["key"].unique() if rows is not None else pa.array([], pa.string())
            uids |= set(rows["uid"].to_pylist()) if rows is not None else set()
        return uids

    def _hold_places(self, ordinals: Numbers) -> None:
        published = read_json(self.output, "run.json") or {}
        cut = self.plan.cut_fingerprint()
        if published.get("cut") == cut and published.get("limit") is None:
            fates = self._fates(ordinals, ["ordinal", "status", "shard"])
            kept = pc.and_(pc.equal(fates["status"], Status.SUCCESS.value), fates["shard"].is_valid())
            tombstones.hold_places(self.output, cut, fates.filter(kept)["ordinal"].to_numpy())

    def _fates(self, ordinals: Numbers, columns: list[str]) -> pa.Table:
        found = [
            pa.table(batch).filter(pc.is_in(batch["ordinal"], pa.array(ordinals, pa.int64()))).select(columns)
            for batch in self._batches(list(dict.fromkeys(["ordinal", *columns])))
        ]
        return pa.concat_tables(found) if found else pa.table({name: pa.array([], pa.string()) for name in columns})

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if not self.output.exists("fates.parquet"):
            return
        path = self.output.path("fates.parquet")
        try:
            yield from tables.batches(self.output, "fates.parquet", columns)
        except pa.ArrowInvalid as error:
            raise OSError(f"{path}: cannot be read: {error}; remove it and run again") from error

    def _shards_with(self, wanted: Tombstones) -> Iterator[str]:
        """Shards whose Parquet lists one of these as kept, whatever fates.parquet says; one that cannot be read may."""
        for name in self.output.names("shards"):
            if not name.endswith(".parquet"):
                continue
            try:
                with self.output.filesystem.open(self.output.path(f"shards/{name}"), "rb") as file:
                    parquet = pq.ParquetFile(file)
                    columns = [column for column, _ in wanted.columns(parquet.schema_arrow.names)]
                    table = parquet.read(["status", *columns], use_threads=False)
            except (pa.ArrowException, OSError):
                yield name.removesuffix(".parquet")
                continue
            if np.any(wanted.mask(table) & pc.equal(table["status"], Status.SUCCESS.value).to_numpy()):
                yield name.removesuffix(".parquet")


def _duplicates(batch: pa.RecordBatch, keys: pa.Array) -> pa.Table | None:
    rows = pa.table(batch).filter(pc.is_in(batch["duplicate_of"], keys.drop_null()))
    return rows if len(rows) else None


def _write_again(plan: Plan) -> bool:
    """Cut and pack, where that needs nothing to be taken in or computed; returns whether it was done."""
    ledger = Ledger(plan.config.work)
    limit = (read_json(Folder(plan.config.output), "cut.json") or {}).get("limit")
    try:
        if Intake(ledger, plan.intake, plan.config.input).new_sources():
            return False
    except (ConfigError, OSError):  # the input may be gone
        return False
    with Cut(plan, ledger, read_generations(ledger), limit) as cut:
        if cut.play(len(plan.steps)):
            return False
    run(plan.config, Options(runner="local", limit=limit, replace=True))
    return True
