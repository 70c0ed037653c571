"""How long a re-cut takes, against the same SQL in bare DuckDB over one Parquet file of the same columns.

    python benchmarks/recut.py --rows 10_000_000 --unit-rows 1000 --folder /tmp/recut

makes a ledger of metadata (an input layer and a layer of scores, in pairsift's own layout), and measures each of these in a
process of its own: seconds, seconds of CPU, and the most memory it held. The rules are a threshold, the best 30 %, and one
row per URL.

    bare    all verdicts, from one Parquet file, in DuckDB at its defaults
    first   the same by pairsift, on a ledger that was never cut before: its small files are compacted on the way
    again   the same by pairsift, from then on
    fates   bare and pairsift once more, with fates.parquet written
"""

import pairsift  # noqa: F401  # isort: skip - before pyarrow, as in a user's run: it says where Arrow takes memory from

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.ledger.intake import Generation, read_generations
from pairsift.pipeline.ledger.layers import Layer, Ledger, part_path
from pairsift.pipeline.pack.shards import write_fates
from pairsift.pipeline.plan import Plan, make_plan
from pairsift.pipeline.report.funnel import FunnelCounter
from pairsift.stages.base import Columns, Stage, Transform
from pairsift.stages.storage import Folder

LEAST, FRACTION = 0.1, 0.3
BLOCK = 1_000_000  # rows made at a time


class Similarity(Stage):
    """A score that is there already: this stage is never run."""

    def reads(self) -> Columns:
        return ("url",)

    def writes(self) -> pa.Schema:
        return pa.schema([("similarity", pa.float32())])

    def open(self) -> AbstractContextManager[Transform]:
        raise NotImplementedError


def config(folder: Path, unit_rows: int) -> Config:
    empty = folder / "input.parquet"
    if not empty.exists():
        pq.write_table(pa.table({"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}), empty)
    stages = [
        {"use": "recut"},
        {"use": "filter.where", "keep": f"similarity >= {LEAST}"},
        {"use": "select.top_fraction", "by": "similarity", "fraction": FRACTION},
        {"use": "dedup.exact", "by": ["url"]},
    ]
    source = {"use": "read.urls", "path": str(empty), "unit_rows": unit_rows}
    return load_config({"input": source, "output": str(folder / "out"), "stages": stages})


def rows(first: int, count: int) -> pa.Table:
    """Rows with every column, by ordinal; one URL in twelve is another's."""
    query = f"""
        SELECT ordinal, printf('%09d', ordinal) AS key, md5(ordinal::VARCHAR) AS uid,
            printf('https://host%d.example.org/images/%d.jpg', hash(place) % 100000, place) AS url,
            printf('a photograph of a %s, number %d', md5((place % 5000)::VARCHAR)[:8], place % 977) AS caption,
            ((hash(ordinal, 1) % 10000000) / 25000000)::FLOAT AS similarity
        FROM (SELECT range AS ordinal, CASE WHEN hash(range, 2) % 12 = 0 THEN hash(range, 3) % range ELSE range END AS place
              FROM range({max(first, 1)}, {first + count}))"""
    with duckdb.connect() as con:
        found = con.sql(query).to_arrow_table()
    return found if first else pa.concat_tables([found.slice(0, 1).set_column(0, "ordinal", pa.array([0])), found])


def make(folder: Path, total: int, unit_rows: int) -> None:
    """The ledger, and the same columns in one file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = make_plan(config(folder, unit_rows))
    ledger = Ledger(plan.config.work)
    schema = pa.schema([*list(plan.intake.schema)[:-2], ("similarity", pa.float32())])
    with pq.ParquetWriter(folder / "one.parquet", schema, compression="zstd") as one:
        for first in range(0, total, BLOCK):
            block = rows(first, min(BLOCK, total - first)).select(schema.names).cast(schema)
            one.write_table(block, row_group_size=122_880)
            for start in range(0, len(block), unit_rows):
                unit = block.slice(start, unit_rows)
                for layer in plan.layers:
                    write(ledger, layer, (first + start) // unit_rows, unit)
    made = Generation(
        number=0, intake=plan.intake.name, unit_rows=unit_rows, first_unit=0, first_ordinal=0, rows=total, sources=()
    )
    ledger.work.write("generations/00000.json", made.model_dump_json().encode())


def write(ledger: Ledger, layer: Layer, unit: int, table: pa.Table) -> None:
    """As Ledger.commit, without its fsync."""
    path = ledger.work.path(part_path(layer, unit, 0))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    arrays = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in layer.schema]
    pq.write_table(pa.table(arrays, schema=layer.schema), path, compression="zstd", use_dictionary=False, store_schema=False)


def bare(folder: Path, fates: bool) -> dict[str, Any]:
    source = f"read_parquet('{folder / 'one.parquet'}')"
    with duckdb.connect() as con:
        con.execute(f"SET temp_directory = '{folder / 'spill'}'")
        con.execute(
            f"""CREATE TEMP TABLE verdicts AS
                WITH likely AS (SELECT ordinal, url, similarity FROM {source} WHERE similarity >= {LEAST}),
                least AS (
                    SELECT similarity AS t FROM likely ORDER BY similarity DESC LIMIT 1
                    OFFSET (SELECT floor(count(*) * {FRACTION})::BIGINT FROM likely)
                ),
                best AS (SELECT ordinal, url FROM likely, least WHERE similarity >= t),
                keepers AS (SELECT url, min(ordinal) AS keeper FROM best GROUP BY url),
                twins AS (SELECT ordinal, keeper FROM best JOIN keepers USING (url) WHERE ordinal <> keeper)
                SELECT ordinal, CASE WHEN similarity >= {LEAST} IS NOT true THEN 1 WHEN similarity < t THEN 2
                    WHEN keeper IS NOT NULL THEN 3 END AS stop, CASE WHEN stop < 3 THEN similarity END AS score, keeper
                FROM (SELECT ordinal, similarity FROM {source}) LEFT JOIN twins USING (ordinal), least"""
        )
        counted = con.execute("SELECT stop, count(*) FROM verdicts GROUP BY stop ORDER BY stop").fetchall()
        if fates:
            con.execute(
                f"""COPY (SELECT ordinal, key, uid, url, CASE WHEN stop IS NULL THEN 'success' WHEN stop = 3 THEN 'duplicate'
                    ELSE 'rejected' END AS status, stop, score, keeper FROM {source} JOIN verdicts USING (ordinal)
                    ORDER BY ordinal) TO '{folder / "bare-fates.parquet"}' (COMPRESSION zstd)"""
            )
    return {"stops": {str(stop): count for stop, count in counted}}


def cut(folder: Path, fates: bool, unit_rows: int) -> dict[str, Any]:
    plan = make_plan(config(folder, unit_rows))
    ledger = Ledger(plan.config.work)
    with Cut(plan, ledger, read_generations(ledger)) as state:
        pending = state.play(len(plan.steps))
        assert not pending, pending
        if fates:
            return {"stops": _written(plan, state)}
        return {"stops": {str(stop): count for stop, count in state.stops().items()}}


def _written(plan: Plan, state: Cut) -> dict[str, int]:
    counter = FunnelCounter(plan)
    write_fates(Folder(plan.config.output), counter.count(state.fates(plan.config.shards)), plan, replace=True)
    funnel = counter.funnel(state.rows)
    return {str(n): loss.rows for n, loss in enumerate(funnel.losses) if loss.rows} | {"None": funnel.kept}


def measured(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lines(folder: Path, total: int, unit_rows: int, repeats: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    common = ["--folder", str(folder), "--rows", str(total), "--unit-rows", str(unit_rows)]
    shutil.rmtree(folder / "out" / "work" / "compact", ignore_errors=True)
    yield "bare", [measured([*common, "--step", "bare"]) for _ in range(repeats)]
    yield "first", [measured([*common, "--step", "cut"])]
    yield "again", [measured([*common, "--step", "cut"]) for _ in range(repeats)]
    yield "bare, fates", [measured([*common, "--step", "bare", "--fates"])]
    yield "pairsift, fates", [measured([*common, "--step", "cut", "--fates"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--unit-rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", choices=["bare", "cut"])
    parser.add_argument("--fates", action="store_true")
    asked = parser.parse_args()
    if asked.step:
        began = time.monotonic()
        found = bare(asked.folder, asked.fates) if asked.step == "bare" else cut(asked.folder, asked.fates, asked.unit_rows)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        print(json.dumps({**found, "seconds": time.monotonic() - began, "cpu": cpu, "peak": used.ru_maxrss * 1024}))
        return
    marker = asked.folder / "made.json"
    shape = {"rows": asked.rows, "unit_rows": asked.unit_rows}
    if not marker.exists() or json.loads(marker.read_text()) != shape:
        began = time.monotonic()
        make(asked.folder, asked.rows, asked.unit_rows)
        marker.write_text(json.dumps(shape))
        print(f"made {asked.rows:,} rows in units of {asked.unit_rows:,} in {time.monotonic() - began:.0f} s", flush=True)
    stops = None
    for name, runs in lines(asked.folder, asked.rows, asked.unit_rows, asked.repeats):
        seconds = [run["seconds"] for run in runs]
        cpu = np.median([run["cpu"] for run in runs])
        peak = max(run["peak"] for run in runs) / 1e9
        spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
        print(f"{name:16} {np.median(seconds):7.1f} s  {spread:16} {cpu:6.1f} s of CPU  {peak:5.2f} GB", flush=True)
        stops = stops or runs[0]["stops"]
        assert all(run["stops"] == stops for run in runs), (stops, runs)


if __name__ == "__main__":
    main()
