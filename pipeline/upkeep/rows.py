"""Single rows of a ledger, with all that its layers hold of them; each file is read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.intake import Generation, read_generations
from pairsift.pipeline.ledger.layers import Layer, Ledger, part_path
from pairsift.pipeline.ledger.retry import read_retries
from pairsift.pipeline.ledger.view import literal
from pairsift.pipeline.plan import Plan
from pairsift.pipeline.upkeep.problems import reason
from pairsift.stages.storage import Folder

Row = dict[str, Any]
_UNITS_AT_ONCE = 1000  # files of layer 0 in one query


class Rows:
    """The rows of one plan's ledger, and their fates in its output."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan.config.work)
        self.output = Folder(plan.config.output)
        self.generations = read_generations(self.ledger)
        self._table = lru_cache(maxsize=64)(self._read)

    @cached_property
    def _originals(self) -> dict[int, int]:
        """A repeated row's ordinal → that of the row which it repeats: see ledger/retry.py."""
        rows = sum(generation.rows for generation in self.generations)
        retries = read_retries(self.ledger, self.generations, self.plan, rows)
        return dict(zip(retries.ordinals.tolist(), retries.originals.tolist(), strict=True))

    def unit_of(self, ordinal: int) -> int:
        generation = self.generation_of(ordinal)
        return generation.first_unit + (ordinal - generation.first_ordinal) // generation.unit_rows

    def generation_of(self, ordinal: int) -> Generation:
        """Raises OSError where none has the row: the work folder was removed, or has lost a generation."""
        found = next((generation for generation in self.generations if ordinal < generation.end_ordinal), None)
        if found is None:
            raise OSError(f"{self.ledger.work.uri}: no generation holds row {ordinal}; `pairsift check` says what to do")
        return found

    def first_ordinal(self, ordinal: int) -> int:
        """That which a row had before it was tried again."""
        while ordinal in self._originals:
            ordinal = self._originals[ordinal]
        return ordinal

    def in_layer(self, layer: Layer, ordinal: int) -> Row | None:
        """The row as a layer has it, or None. Of a row that was tried again, earlier layers have the original."""
        wanted: int | None = ordinal
        while wanted is not None:
            table = self._table(layer, self.unit_of(wanted))
            if table is not None:
                found = table.filter(pc.equal(table["ordinal"], wanted)).to_pylist()
                if found:
                    return dict(found[0])
            wanted = self._originals.get(wanted)
        return None

    def _read(self, layer: Layer, unit: int) -> pa.Table | None:
        return self.ledger.read(layer, unit, (*layer.columns, "failure_detail"))

    def fates(self, condition: str, values: Sequence[Any], most: int) -> list[Row]:
        """Rows of fates.parquet in order, at most so many; none where it does not exist."""
        if not self.output.exists("fates.parquet"):
            return []
        query = f"SELECT * FROM read_parquet({literal(self.output.path('fates.parquet'))}) WHERE {condition} "
        with _told(self.output.path("fates.parquet")), self._duckdb(self.output) as con:
            return _dicts(con.sql(f"{query} ORDER BY ordinal LIMIT {most}", params=list(values)).to_arrow_table())

    @cached_property
    def first_without_fate(self) -> int:
        """The ordinal behind the last one in fates.parquet."""
        if not self.output.exists("fates.parquet"):
            return 0
        with self.output.filesystem.open(self.output.path("fates.parquet"), "rb") as file:
            metadata = pq.ParquetFile(file).metadata
        ends = [metadata.row_group(n).column(0).statistics.max + 1 for n in range(metadata.num_row_groups)]
        return max(ends, default=0)

    def without_fates(self, text: str, most: int) -> list[int]:
        """Ordinals, beyond fates.parquet, of the rows whose key, uid or URL is `text`."""
        first = self.first_without_fate
        total = sum(generation.rows for generation in self.generations)
        if first >= total:
            return []
        columns = [name for name in ("key", "uid", "url") if name in self.plan.intake.columns]
        condition = " OR ".join(f"{name} = $1" for name in columns)
        units = np.arange(self.unit_of(first), sum(generation.units for generation in self.generations))
        found: list[int] = []
        with _told(self.ledger.work.uri), self._duckdb(self.ledger.work) as con:
            for start in range(0, len(units), _UNITS_AT_ONCE):
                paths = [self.ledger.work.path(part_path(self.plan.intake, int(u), 0)) for u in units[start:][:_UNITS_AT_ONCE]]
                query = f"SELECT ordinal FROM read_parquet([{', '.join(map(literal, paths))}]) WHERE ordinal >= {first}"
                found += [row[0] for row in con.execute(f"{query} AND ({condition}) ORDER BY ordinal", [text]).fetchall()]
                if len(found) >= most:
                    break
        return found[:most]

    @staticmethod
    def _duckdb(folder: Folder) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect()
        con.execute("SET enable_progress_bar = false")
        if not folder.local:
            con.register_filesystem(folder.filesystem)
        return con


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        raise OSError(f"{path}: cannot be read: {reason(error)}; `pairsift check` says what to do") from error


def _dicts(table: pa.Table) -> list[Row]:
    return [dict(row) for row in table.to_pylist()]
