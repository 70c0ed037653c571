"""Selectors dealt out: what one process finds, many find, to the byte."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.config import load_config
from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.cut import dealt, parts
from pairsift.pipeline.cut.cut import Cut
from pairsift.pipeline.ledger import copies
from pairsift.pipeline.ledger.intake import Intake
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.plan import make_plan
from pairsift.pipeline.runners import open_runner
from pairsift.pipeline.upkeep.clean import clean
from pairsift.stages import exchange
from pairsift.stages.dedup import perceptual_tasks

Selector = dict[str, Any]

SELECTORS: dict[str, list[Selector]] = {
    "exact": [{"use": "dedup.exact", "by": ["url"]}, {"use": "dedup.exact", "by": ["nearness", "caption"]}],
    "cap": [
        {"use": "select.cap", "per": ["url"], "rows": 2},
        {"use": "select.cap", "per": ["group", "caption"], "rows": 3, "best": "nearness", "largest": False},
    ],
    "frequent": [
        {"use": "select.frequent", "per": ["caption"], "most": 30},
        {"use": "select.frequent", "per": ["group"], "distinct": ["url"], "most": 20, "frozen": False},
    ],
    "top": [
        {"use": "select.top_fraction", "by": "nearness", "fraction": 0.9},
        {"use": "select.top_fraction", "by": "nearness", "fraction": 0.3, "largest": False, "frozen": False},
    ],
    "top of groups": [{"use": "select.top_fraction", "by": "nearness", "fraction": 0.5, "per": ["group"]}],
    "sample": [
        {"use": "select.sample", "fraction": 0.8, "seed": 3},
        {"use": "select.sample", "count": 200, "by": ["group"]},
        {"use": "select.sample", "count": 77, "seed": 5},
    ],
    "balance": [
        {"use": "select.balance", "per_entry": 60, "seed": 1},
        {"use": "select.balance", "per_entry": 20, "frozen": False},
    ],
    "rare words": [
        {"use": "select.rare_words", "vocabulary": 9},
        {"use": "select.rare_words", "vocabulary": 5, "frozen": False},
    ],
    "semantic": [
        {"use": "dedup.semantic", "by": "vector", "similarity": 0.98, "clusters": 7},
        {"use": "dedup.semantic", "by": "vector", "similarity": 0.9, "keep": "random", "seed": 2},
        {"use": "dedup.semantic", "by": "vector", "similarity": 0.7, "clusters": 1, "keep": "easy"},
    ],
    "perceptual": [
        {"use": "dedup.perceptual", "by": "bits", "distance": 3},
        {"use": "dedup.perceptual", "by": "bits", "distance": 9, "best": ["nearness", "size"]},
    ],
    "after each other": [
        {"use": "filter.where", "keep": "ordinal % 7 <> 3"},
        {"use": "dedup.exact", "by": ["url", "caption"]},
        {"use": "pairsift_toys.broken"},
        {"use": "select.top_fraction", "by": "nearness", "fraction": 0.8},
        {"use": "pairsift_toys.shortest"},
    ],
}
SCORES = [None, float("nan"), 0.0, -0.0, 1.5, -2.25, float("inf"), -float("inf"), 5e-324, -1e300]


def made(rng: random.Random, rows: int) -> pa.Table:
    """Rows that agree in much, with all that is awkward."""
    words = ["a", "b", "größer", "x", "a", "A", "a"]
    return pa.Table.from_pylist(
        [
            {
                "url": rng.choice([None, *map(str, range(rows // 4 + 1))]),
                "caption": rng.choice([None, "", " ".join(rng.choices(words, k=rng.randint(1, 4)))]),
                "nearness": rng.choice([*SCORES, rng.gauss(0, 1), rng.gauss(0.3, 1e-9)]),
                "group": rng.choice(["x", "y", None]),
                "vector": rng.choice([None, [0.0] * 3, vector, [x + rng.gauss(0, 0.1) for x in vector]]),
                "bits": rng.choice([None, f"{bits:016x}", f"{bits ^ 1 << rng.randrange(64):016x}"]),
                "size": rng.randint(1, 3),
                "entries": sorted({rng.randint(0, 5) for _ in range(rng.randint(0, 3))}),
            }
            for bits in (rng.getrandbits(64) & 0xF0F0000000000F1F for _ in range(rows))
            for vector in [[rng.gauss(0, 1) for _ in range(3)]]
        ],
        pa.schema(
            {"url": pa.string(), "caption": pa.string(), "nearness": pa.float64(), "group": pa.string()}
            | {"bits": pa.string(), "size": pa.int32(), "entries": pa.list_(pa.int64()), "vector": pa.list_(pa.float32(), 3)}
        ),
    )


def published(folder: Path, name: str, stages: list[Selector], files: list[pa.Table], **more: Any) -> bytes:
    """fates.parquet of a run after each of the files."""
    (folder / name / "in").mkdir(parents=True)
    runner = more.pop("runner", "local")
    for number, table in enumerate(files):
        pq.write_table(table, folder / name / "in" / f"{number}.parquet")
        config = {
            "input": {"use": "read.urls", "path": str(folder / name / "in"), "unit_rows": more.get("unit_rows", 8)},
            "output": str(folder / name / "out"),
            "stages": stages,
            "guard": {"max_rejected": 1, "max_failed": 1},
            "cut_partitions": more["partitions"],
        }
        pairsift.run(config, runner=runner, replace=True)
    assert not list((folder / name / "out" / "work").glob("spill*"))
    return (folder / name / "out" / "fates.parquet").read_bytes()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, parts and stretches of few rows, so that some hundred rows have many of each. In this process only."""
    monkeypatch.setattr(copies, "BLOCK_ROWS", 40)
    monkeypatch.setattr(parts, "_ROWS_OF_A_PART", 80)
    monkeypatch.setattr(exchange, "STRETCH", 64)
    monkeypatch.setattr(perceptual_tasks, "NODES_TOGETHER", 20)


@pytest.mark.parametrize("case", SELECTORS)
def test_the_same_fates(case: str, small: None, tmp_path: Path) -> None:
    rng = random.Random(case)
    files = [made(rng, 130), made(rng, rng.choice([1, 130]))]
    alone = published(tmp_path, "alone", SELECTORS[case], files, partitions=1)
    assert len(labels_of(alone)) == sum(entry["use"] != "pairsift_toys.broken" for entry in SELECTORS[case]), "each takes rows"
    assert published(tmp_path, "dealt", SELECTORS[case], files, partitions=rng.randint(2, 5)) == alone


@dataclass(frozen=True)
class DiesOnce:
    """A function in a process that is killed at the first call that finds no mark."""

    function: Callable[[Any], Any]
    mark: str

    def __call__(self, item: Any) -> Any:
        if not os.path.exists(self.mark):
            with open(self.mark, "xb"):
                os.kill(os.getpid(), 9)
        return self.function(item)


# Rows that meet by a key, a summary of all, pairs that are near by their bits, pairs that are near by their vectors.
OF_EACH_KIND = [SELECTORS[name][0] for name in ("exact", "top", "perceptual", "semantic")]


def labels_of(fates: bytes) -> set[str]:
    return set(pq.read_table(pa.BufferReader(fates))["rejected_by"].to_pylist()) - {None}


# Waves in which a worker is killed: of SQL, of hashes, of vectors. A worker that has to be replaced costs seconds.
DEADLY = {
    "dealt Scatter", "dealt Summarise", "dealt Decide",
    "perceptual_tasks _Deal", "perceptual_tasks _Near",
    "semantic_tasks _Scatter", "semantic_tasks _Find",
}  # fmt: skip


def test_killed_workers_change_nothing(ray_session: None, tmp_path: Path) -> None:
    """One in the first wave of each kind."""
    stages = OF_EACH_KIND
    pq.write_table(made(random.Random(0), 700), tmp_path / "rows.parquet")
    source = {"use": "read.urls", "path": str(tmp_path / "rows.parquet"), "unit_rows": 50}
    config = load_config({"input": source, "output": str(tmp_path / "out"), "stages": stages, "cut_partitions": 3})
    plan, ledger = make_plan(config), Ledger(config.work)
    generations = Intake(ledger, plan.intake, config.input).take_in()

    with open_runner("ray") as runner:

        def deaths(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
            wave = f"{type(function).__module__.rpartition('.')[2]} {type(function).__name__}"
            mark = tmp_path / f"died in {wave}"
            return runner.map(DiesOnce(function, str(mark)) if wave in DEADLY else function, items, Stop())

        def verdicts(deal: dealt.Deal | None) -> Any:
            with Cut(plan, ledger, generations, deal=deal) as cut:
                cut.play(len(plan.steps))
                fates = pa.Table.from_batches(fates for fates, _ in cut.fates(config.shards))
                return fates.select(["rejected_by", "duplicate_of"]).to_pylist()

        alone = verdicts(None)
        assert len({fate["rejected_by"] for fate in alone} - {None}) == len(stages), "each takes rows"
        assert verdicts(dealt.Deal(deaths, "ray")) == alone
    assert {path.name.removeprefix("died in ") for path in tmp_path.glob("died in *")} == DEADLY


@pytest.mark.parametrize("workers", [1, 4])
def test_on_ray_with_one_worker_and_with_four(workers: int, tmp_path: Path) -> None:
    """Blocks of a thousand rows, four partitions; each Ray is one of its own."""
    alone = published(tmp_path, "alone", OF_EACH_KIND, [made(random.Random(7), 1200)], partitions=1, unit_rows=1)
    assert len(labels_of(alone)) == len(OF_EACH_KIND), "each takes rows"
    config = json.loads((tmp_path / "alone" / "out" / "cut.json").read_text())["config"]
    dealt_out = {**config, "output": str(tmp_path / "dealt"), "work": str(tmp_path / "alone" / "out" / "work")}
    script = (
        "import json, sys, ray, pairsift; "
        f"ray.init('local', num_cpus={workers}, include_dashboard=False, logging_level='ERROR', log_to_driver=False); "
        "pairsift.run(json.load(sys.stdin), runner='ray'); ray.shutdown()"
    )
    given = json.dumps({**dealt_out, "cut_partitions": 4}).encode()
    subprocess.run([sys.executable, "-c", script], input=given, check=True, timeout=100)
    assert (tmp_path / "dealt" / "fates.parquet").read_bytes() == alone


def test_a_killed_driver_changes_nothing(tmp_path: Path) -> None:
    """It is killed as soon as the first file of rows is there; what it leaves is not taken for anything."""
    files, stages = (
        [made(random.Random(3), 400)],
        [rule for name in ("exact", "top", "sample", "cap") for rule in SELECTORS[name]],
    )
    alone = published(tmp_path, "alone", stages, files, partitions=1)
    config = json.loads((tmp_path / "alone" / "out" / "cut.json").read_text())["config"]
    config = {**config, "output": str(tmp_path / "out"), "work": str(tmp_path / "work"), "cut_partitions": 6}
    script = "import json, sys, pairsift; pairsift.run(json.load(sys.stdin), runner='local')"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(config).encode())
    process.stdin.close()
    while not list(tmp_path.glob("work/spill-*/dealt-*/rows-*")):
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "fates.parquet").exists()
    pairsift.run(config, runner="local")
    assert (tmp_path / "out" / "fates.parquet").read_bytes() == alone
    assert list(tmp_path.glob("work/spill-*/**/rows-*")), "nobody takes away what a run that was killed has left, but"
    clean([str(tmp_path / "out")], yes=True)
    assert not list(tmp_path.glob("work/spill-*/**/rows-*"))


def test_when_it_is_dealt_out(captions: Callable[..., Any], tmp_path: Path) -> None:
    config = load_config({"input": captions(["a"]), "output": str(tmp_path / "out")})
    assert dealt.partitions(config, "ray", dealt.ROWS_ALONE) == 1
    assert dealt.partitions(config, "ray", dealt.ROWS_ALONE + 1) == 6
    assert dealt.partitions(config, "local", 10**9) == 1
    asked = config.model_copy(update={"cut_partitions": 5})
    assert dealt.partitions(asked, "local", 10) == 5


def test_of_several_verdicts_the_smallest_score_counts() -> None:
    table = pa.table({"ordinal": [3, 1, 3, 2], "duplicate_of": pa.nulls(4, pa.int64()), "score": [2.0, np.nan, 1.0, None]})
    assert dealt._once(table).to_pydict()["ordinal"] == [1, 2, 3]
    assert dealt._once(table).to_pydict()["score"][2] == 1.0
