"""The documentation and the code say the same."""

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.cli.main import app
from pairsift.pipeline.config import load_config
from pairsift.pipeline.cut.cut import FATES
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.run import Options, run
from pairsift.stages.fates import Failure, Status

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ROOT / "docs" / "formats.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def table(mark: str) -> list[list[str]]:
    """The cells, without backticks, of the table below `<!-- mark -->`, without its head."""
    below = FORMATS.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n\n")[1]
    lines = below.split("\n\n")[0].splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def first_column(mark: str) -> list[str]:
    return [cells[0] for cells in table(mark)]


def test_failure_codes() -> None:
    assert table("failures") == [[f.value, f.status.value, "yes" if f.transient else "no", f.text] for f in Failure]


def test_statuses() -> None:
    assert first_column("statuses") == [status.value for status in Status]


def test_columns_of_fates() -> None:
    written = [[field.name, str(field.type), "yes" if field.nullable else "never"] for field in FATES]
    assert [cells[:3] for cells in table("fates")] == written


def test_fields_of_a_generation() -> None:
    assert first_column("generation") == list(Generation.model_fields)


def test_fields_of_run_json(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a.example/1"], "caption": ["one"]}), tmp_path / "urls.parquet")
    config: dict[str, Any] = {
        "input": {"use": "read.urls", "path": str(tmp_path / "urls.parquet")},
        "output": str(tmp_path / "out"),
    }
    report = run(load_config(config), Options(runner="local")).report
    assert first_column("run") == list(report)


def test_the_queries_run_as_they_stand(tmp_path: Path, web: Any) -> None:
    urls = [web.url("coffee.jpg"), web.url("gone.jpg"), "https://example.com/1.jpg"]
    pq.write_table(pa.table({"url": urls, "caption": ["one", "two", "three"]}), tmp_path / "urls.parquet")
    stages = [
        {"use": "filter.where", "keep": "ordinal < 2"},
        {"use": "download", "allow_private_addresses": True, "retries": 0},
    ]
    source = {"use": "read.urls", "path": str(tmp_path / "urls.parquet")}
    run(load_config({"input": source, "output": str(tmp_path / "out"), "stages": stages}), Options(runner="local"))
    queries = re.findall(r"```sql\n(.*?)```", FORMATS.read_text(encoding="utf-8"), re.DOTALL)
    with duckdb.connect() as con:
        asked = [query.replace("OUTPUT", f"{tmp_path}/out").replace("WORK", f"{tmp_path}/out/work") for query in queries]
        fate, rule, layer = [con.execute(query).fetchall() for query in asked]
        assert fate == [("000000002", "rejected", None, None, "ordinal < 2", 2.0, None, None)]
        assert rule == [("ordinal < 2", 1, 2.0, 2.0, 2.0)]
        assert layer == [(urls[0], "success", 600, 400)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path) -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"run", "demo"} <= commands
    text = page.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```.*?^```$", text, flags=re.MULTILINE | re.DOTALL))
    named = re.findall(r"`pairsift ([a-z]+)", text) + re.findall(r"^(?:\$ )?pairsift ([a-z]+)", blocks, re.MULTILINE)
    assert sorted(set(named) - commands) == []


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\(decisions/([^)]+)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    assert DECISIONS
    assert listed == [page.name for page in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_says_why_and_what_follows(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]
