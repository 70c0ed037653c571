"""The entries that docs/rules.md shows are entries, and do what the page says."""

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from pairsift.pipeline.config import build_entry, catalog
from pairsift.stages import schema, sql
from pairsift.stages.base import Filter, Selector, Stage
from pairsift.stages.select.sample import Sample

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[0]["use"])
def test_the_entries_of_a_block_fit_together(block: list[dict[str, Any]]) -> None:
    columns = [schema.URL, schema.CAPTION, schema.UID, schema.ORIGINAL_WIDTH, schema.ORIGINAL_HEIGHT, schema.IMAGE]
    for item in block:
        entry = build_entry(item, "docs/rules.md", (Stage, Filter, Selector))
        assert set(entry.reads()) <= {field.name for field in columns}, item
        if isinstance(entry, Filter):
            entry.check()
            sql.check_predicate(entry.predicate(), pa.schema([field for field in columns if field.name != "image"]))
        if isinstance(entry, Stage):
            prefix = f"{entry.as_}_" if entry.as_ else ""
            columns += [field.with_name(prefix + field.name) for field in entry.writes()]


def test_the_filter_draws_what_the_selector_draws() -> None:

    (rule,) = (item["keep"] for block in BLOCKS for item in block if "md5" in item.get("keep", ""))
    uids = pa.table({"uid": [f"{n * 0x9E3779B97F4A7C15 % 2**128:032x}" for n in range(20_000)]})
    kept = {n for n, keep in enumerate(sql.evaluate(rule, uids).to_pylist()) if keep}
    with duckdb.connect() as con:
        rows = uids.append_column("ordinal", pa.array(range(20_000))).append_column("generation", pa.array([0] * 20_000))
        con.register("rows", rows)
        gone = {ordinal for ordinal, *_ in con.execute(Sample(fraction=0.1, seed=7).reduce()).fetchall()}
    assert kept == set(range(20_000)) - gone
    assert 1800 < len(kept) < 2200


def test_every_measure_and_every_recipe_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z0-9_.-]+)`", PAGE))
    assert {use for use in catalog() if use.split(".")[0] in ("text", "image", "select")} <= named
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"quickstart"} <= named
