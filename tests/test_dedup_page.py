"""docs/dedup.md: its entries are entries, its table has every edit, and its query runs."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from pairsift.pipeline.config import build_entry, catalog
from pairsift.stages import schema, sql
from pairsift.stages.base import Filter, Selector, Stage

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "dedup.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]['use']}-{block[-1]['use']}")
def test_the_entries_of_a_block_fit_together(block: list[dict[str, Any]]) -> None:
    columns = [schema.URL, schema.CAPTION, schema.UID, schema.ORIGINAL_WIDTH, schema.ORIGINAL_HEIGHT, schema.IMAGE]
    for item in block:
        entry = build_entry(item, "docs/dedup.md", (Stage, Filter, Selector))
        if item["use"] == "embed":  # what it writes is asked of the checkpoint
            columns += [schema.embedding(name, 8) for name in ("image_embedding", "text_embedding")]
            continue
        assert set(entry.reads()) <= {field.name for field in columns}, item
        if isinstance(entry, Filter):
            sql.check_predicate(entry.predicate(), pa.schema([field for field in columns if field.name != "image"]))
        if isinstance(entry, Stage):
            prefix = f"{entry.as_}_" if entry.as_ else ""
            columns += [field.with_name(prefix + field.name) for field in entry.writes()]


def test_every_rule_and_every_edit_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z0-9_.-]+)`", PAGE))
    assert {use for use in catalog() if use.startswith("dedup.")} <= named
    path = ROOT / "benchmarks" / "edited_images.py"
    spec = importlib.util.spec_from_file_location("edited_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = {line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("|")}
    assert set(module.EDITS) <= rows


def test_placeholders_are_found_and_reported(
    listing: Callable[..., dict[str, Any]], curate: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [{"url": f"http://a/{n}", "caption": f"caption {n}", "image_sha256": "0"} for n in range(25)]
    rows += [{"url": "http://b", "caption": "caption 0", "image_sha256": "1"}] * 25  # often, but with one caption
    (rule,) = (item for block in BLOCKS for item in block if item.get("name") == "placeholder")
    source = listing(rows, columns={"url": "url", "caption": "caption"}, extra=["image_sha256"])
    fates = curate(source, rule).fates().to_pylist()
    assert [fate["rejected_by"] for fate in fates] == ["placeholder"] * 25 + [None] * 25
    (query,) = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = duckdb.sql(query.replace("OUTPUT", str(tmp_path / "out"))).fetchall()
    assert [row[:2] for row in found] == [(25, 25)]
