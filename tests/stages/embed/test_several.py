"""Two models in one run, each with its own columns."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pairsift.pipeline.config import load_config
from pairsift.pipeline.run import Options, run


def test_two_models_in_one_run(tmp_path: Path, tiny_clip: Callable[[int], str], pictures: list[bytes]) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number, data in enumerate(pictures):
            for name, content in ((f"{number}.png", data), (f"{number}.txt", b"a photo")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    scored = {"image_embedding": "large_image_embedding", "text_embedding": "large_text_embedding"}
    config: dict[str, Any] = {
        "input": {"use": "read.webdataset", "path": str(tmp_path / "00000.tar"), "unit_rows": 3},
        "stages": [
            {"use": "embed", "model": tiny_clip(0), "as": "small", "only": "images"},
            {"use": "embed", "model": tiny_clip(1), "as": "large"},
            {"use": "score.clip_similarity", "as": "large", **scored},
        ],
        "output": str(tmp_path / "out"),
    }
    run(load_config(config), Options(runner="local"))
    columns = {name for file in tmp_path.rglob("layers/*/*/*.parquet") for name in pq.read_schema(file).names}
    vectors = {name for name in columns if name.endswith("_embedding")}
    assert vectors == {"small_image_embedding", "large_image_embedding", "large_text_embedding"}
    packed = pq.read_table(next((tmp_path / "out" / "shards").glob("*.parquet")))
    assert packed["large_clip_similarity"].null_count == 0
    assert len(packed) == len(pictures)
