"""Selectors' DuckDB: little memory, and more of it where a query cannot do with less."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import pairsift
from pairsift.pipeline.control import machine
from pairsift.pipeline.cut import database

# An aggregate that DuckDB cannot put on the disk.
GREEDY = "CREATE TABLE lists AS SELECT list(range) AS all_of_them FROM range(4_000_000)"


def test_a_query_that_cannot_do_with_its_memory_gets_more(tmp_path: Path) -> None:
    con = database.connect(str(tmp_path), 16 << 20)
    with pytest.raises(duckdb.OutOfMemoryException):
        con.execute(GREEDY)
    database.execute(con, GREEDY)
    assert con.execute("SELECT len(all_of_them) FROM lists").fetchall() == [(4_000_000,)]
    assert con.execute("SELECT getvariable('memory')").fetchall()[0][0] >= 32 << 20


def test_a_config_says_how_much(tmp_path: Path, captions: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    connect = database.connect

    def asking(spill: str, memory: int | None) -> duckdb.DuckDBPyConnection:
        asked.append(memory)
        return connect(spill, memory)

    monkeypatch.setattr(database, "connect", asking)
    config = {"input": captions(["a", "a"]), "stages": [{"use": "dedup.exact", "by": ["caption"]}], "cut_memory": 20 << 20}
    assert pairsift.run({**config, "output": str(tmp_path / "out")}, runner="local").report["kept"] == 1
    assert set(asked) == {20 << 20}


def test_many_rows_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 2)
    monkeypatch.setattr(machine, "memory", lambda: 16 << 30)
    assert [database.memory_for(rows) for rows in (0, 10**5, 10**6)] == [24 << 20] * 3, "the same up to a million"
    assert database.memory_for(10**7) == (24 << 20) + 9_000_000 * 48
    assert database.memory_for(10**10) == 1 << 30
    monkeypatch.setattr(machine, "memory", lambda: 1 << 30)
    assert database.memory_for(10**10) == int(0.3 * (1 << 30)), "a small machine's share"


def test_there_is_an_end_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 100 << 20)
    con = database.connect(str(tmp_path), 16 << 20)
    with pytest.raises(duckdb.OutOfMemoryException):
        database.execute(con, GREEDY)
    assert con.execute("SELECT getvariable('memory')").fetchall() == [(30 << 20,)]
    with pytest.raises(duckdb.CatalogException):
        database.execute(con, "SELECT 1 FROM nothing")
