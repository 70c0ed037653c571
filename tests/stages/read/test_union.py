import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.config import load_config
from pairsift.pipeline.plan import make_plan
from pairsift.pipeline.report.manifest import dump
from pairsift.stages.base import ConfigError


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    coco = {"images": [{"id": 1, "coco_url": "http://1"}], "annotations": [{"image_id": 1, "caption": c} for c in "ab"]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "cc12m.tsv").write_text("http://2\tc\ntoo\tmany\tfields\n")
    columns = {"URL": ["http://3"], "TEXT": ["d"], "similarity": pa.array([0.5], pa.float32()), "id": [1.5], "source": ["x"]}
    pq.write_table(pa.table(columns), tmp_path / "laion.parquet")
    return {
        "coco": {"use": "read.urls", "preset": "coco", "path": str(tmp_path / "coco.json")},
        "cc12m": {"use": "read.urls", "preset": "cc12m", "path": str(tmp_path / "cc12m.tsv")},
        "laion": {"use": "read.urls", "preset": "laion", "path": str(tmp_path / "*.parquet")},
    }


def config(tmp_path: Path, parts: Any, **more: Any) -> dict[str, Any]:
    return {"input": {"use": "read.union", "parts": parts, "unit_rows": 2}, "output": str(tmp_path / "out"), **more}


def test_several_lists_in_one_run(tmp_path: Path, parts: dict[str, Any]) -> None:
    stages = [{"use": "filter.where", "keep": "source <> 'laion' OR similarity >= 0.4"}]
    results = pairsift.run(config(tmp_path, parts, stages=stages), runner="local")
    rows = results.sql("SELECT url, caption, source, similarity, id, source_source FROM ledger ORDER BY ordinal").fetchall()
    assert rows == [
        ("http://1", "a", "coco", None, 1.0, None),
        ("http://1", "b", "coco", None, 1.0, None),
        ("http://2", "c", "cc12m", None, None, None),
        (None, None, "cc12m", None, None, None),
        ("http://3", "d", "laion", 0.5, 1.5, "x"),
    ]
    assert results.report["kept"] == 4
    assert results.report["failures"] == {"unreadable_row": 1}


def test_a_part_that_grows_makes_a_generation(tmp_path: Path, parts: dict[str, Any]) -> None:
    pairsift.run(config(tmp_path, parts), runner="local")
    pq.write_table(pa.table({"URL": ["http://4"], "TEXT": ["e"], "similarity": [0.25], "id": [2.0]}), tmp_path / "more.parquet")
    results = pairsift.run(config(tmp_path, parts), runner="local")
    found = results.sql("SELECT ordinal, source, url FROM ledger ORDER BY ordinal").fetchall()
    assert found[-1] == (5, "laion", "http://4")


def test_datasets_with_images_of_their_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo("1.jpg")
            info.size = 3
            tar.addfile(info, io.BytesIO(name.encode() * 3))
    pq.write_table(pa.table({"image": [b"\xff\xd8\xff!", b"GIF89a!"], "caption": ["c", "d"]}), tmp_path / "c.parquet")
    parts = {name: {"use": "read.webdataset", "path": str(tmp_path / f"{name}.tar")} for name in ("a", "b")}
    parts["c"] = {"use": "read.image_parquet", "path": str(tmp_path / "c.parquet")}
    pairsift.run(config(tmp_path, parts), runner="local")
    with tarfile.open(tmp_path / "out" / "shards" / "00000.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    images = {name: data for name, data in found.items() if not name.endswith(("json", "txt"))}
    assert images == {
        "000000000.jpg": b"aaa", "000000001.jpg": b"bbb", "000000002.jpg": b"\xff\xd8\xff!", "000000003.gif": b"GIF89a!",
    }  # fmt: skip
    assert [json.loads(found[f"00000000{n}.json"])["source"] for n in range(4)] == ["a", "b", "c", "c"]


def test_the_order_and_options_of_parts_are_the_inputs_identity(tmp_path: Path, parts: dict[str, Any]) -> None:
    def name(parts: dict[str, Any]) -> str:
        return make_plan(load_config(config(tmp_path, parts))).intake.name

    assert name(parts) == name(json.loads(json.dumps(parts)))
    assert name(parts) == name({n: part | {"unit_rows": 7} for n, part in parts.items()})
    assert name(parts) != name(parts | {"coco": parts["coco"] | {"captions": "list"}})
    assert name(parts) != name(dict(reversed(parts.items())))
    loaded = load_config(config(tmp_path, parts))
    assert load_config(dump(loaded)) == loaded


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": {"use": "read.url"}}, r"input \(read\.union\): parts\.x: .*use: 'read\.url' is no reader that can be a part"),
        ({"x": {"use": "filter.where"}}, "is no reader that can be a part"),
        ({"x": {"use": "read.union", "parts": {}}}, "is no reader that can be a part"),
        ({"x": {}}, "is no reader that can be a part"),
        ({"x": {"use": "read.urls", "pth": "a"}}, "read.urls: path: Field required"),
        ({"x": 7}, "parts.x: "),
        ({"x": {"use": "read.urls", "path": "none.csv"}}, r"parts\.x \(read\.urls\): nothing matches none\.csv"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, parts: dict[str, Any], change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        make_plan(load_config(config(tmp_path, parts | change)))
    assert "\n" not in str(error.value)


def test_parts_that_do_not_go_together(tmp_path: Path, parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"parts\.again: .*cc12m\.tsv is in parts\.cc12m, too"):
        make_plan(load_config(config(tmp_path, parts | {"again": parts["cc12m"]})))
    (tmp_path / "x.jsonl").write_text('{"url": "u", "similarity": "high"}\n')
    with pytest.raises(ConfigError, match=r"parts\.x: the column 'similarity' is string, and float in a part before it"):
        make_plan(load_config(config(tmp_path, parts | {"x": {"use": "read.urls", "path": str(tmp_path / "x.jsonl")}})))
