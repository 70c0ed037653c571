"""What a run left behind, as Arrow tables and DuckDB relations."""

from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import Config
from pairsift.pipeline.ledger.intake import read_generations
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.ledger.view import ledger_sql, literal
from pairsift.pipeline.outputs import configs_of
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.report.manifest import read_json
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder


class Results:
    """The output and the ledger of one config. Reads when asked; holds no files open but DuckDB's."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def outputs(self) -> dict[str, "Results"]:
        """By name, where the config names `outputs`; each has a folder, and so results, of its own."""
        configs = configs_of(self.config) if self.config.outputs else []
        return {name: Results(one) for (name, _), one in zip(self.config.outputs, configs, strict=True)}

    @property
    def _output(self) -> Folder:
        if self.config.outputs:
            names = ", ".join(name for name, _ in self.config.outputs)
            raise ConfigError(f"{self.config.output}: this config has several outputs ({names}): ask one of `outputs`")
        return Folder(self.config.output)

    @cached_property
    def plan(self) -> Plan:
        """As the ledger has it: the input files are not looked at, they may be gone."""
        ledger = Ledger(self.config.work)
        taken = [generation for generation in read_generations(ledger) if generation.rows]
        return make_plan(self.config, ledger.found(taken[0].intake, taken[0].first_unit) if taken else None)

    @property
    def report(self) -> dict[str, Any]:
        """What run.json says: counts per fate, seconds per stage, versions. Raises ConfigError where no run has ended."""
        found = read_json(self._output, "run.json")
        if found is None:
            raise ConfigError(f"{self.config.output}: no run has ended here yet; `pairsift status` tells how far it is")
        return found

    def fates(self) -> pa.Table:
        """One row per input row, in ordinal order: ordinal, key, uid, url, status, code, error_message, rejected_by, score,
        duplicate_of, shard. `status` is never null."""
        output = self._output
        filesystem = None if output.local else output.filesystem
        return pq.read_table(output.path("fates.parquet"), filesystem=filesystem, use_threads=False)

    def ledger(self) -> pa.Table:
        """One row per input row with every column that was read or computed; null where a stage was not run on the row.

        Held in memory whole; for a large one, ask `sql` for what you need.
        """
        return self.sql("SELECT * FROM ledger ORDER BY ordinal").to_arrow_table()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over the views `fates` and `ledger`, evaluated when it is fetched."""
        return self._views.sql(query)

    @cached_property
    def _views(self) -> duckdb.DuckDBPyConnection:
        ledger = Ledger(self.config.work)
        views = ledger_sql(self.plan, ledger, sum(generation.rows for generation in read_generations(ledger)))
        con = duckdb.connect()
        con.execute("SET enable_progress_bar = false")
        output = self._output
        for filesystem in {
            str(folder.filesystem.protocol): folder.filesystem for folder in (output, ledger.work) if not folder.local
        }.values():
            con.register_filesystem(filesystem)
        if output.exists("fates.parquet"):
            con.execute(f"CREATE VIEW fates AS SELECT * FROM read_parquet({literal(output.path('fates.parquet'))})")
        con.execute(f"CREATE VIEW ledger AS {views}")
        return con
