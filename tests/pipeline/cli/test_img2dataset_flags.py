"""img2dataset's flags become the config that does the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.cli.img2dataset_flags import Flags, config_of, notes, options_of, prepare_output, read_flags
from pairsift.pipeline.config import load_config
from pairsift.stages.base import ConfigError

OURS = {"contact", "engine", "allow_private_addresses", "robots"}
ELSEWHERE = {"output_format": "files"}  # where our default is another


def test_every_flag_of_img2dataset_is_there_with_its_default() -> None:
    code = "import inspect, json; from img2dataset.main import download; p = inspect.signature(download).parameters.values()"
    code += "; print(json.dumps({x.name: None if x.default is inspect.Parameter.empty else x.default for x in p}))"
    environment = {"NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    theirs = json.loads(done.stdout)
    ours = {name: None if f.is_required() else f.default for name, f in Flags.model_fields.items() if name not in OURS}
    assert {**ours, **ELSEWHERE} == theirs
    assert list(ours) == list(theirs)  # words without a name go by this order


def test_flags_are_read_as_fire_reads_them() -> None:
    flags = read_flags(
        [
            "--url_list=a.parquet",
            "--image-size",
            "128",
            "--resize_only_if_bigger",
            "--noextract_exif",
            "--skip_reencode",
            "True",
        ]
        + ["--compute_hash", "None", "--max_aspect_ratio", "3", "--encode_quality=-1"]
        + ['--save_additional_columns=["a", "b"]', "--verify_hash", "[check,md5]", "--disallowed_header_directives", "[]"]
    )
    assert (flags.url_list, flags.image_size, flags.encode_quality) == ("a.parquet", 128, -1)
    assert (flags.resize_only_if_bigger, flags.extract_exif, flags.skip_reencode) == (True, False, True)
    assert (flags.compute_hash, flags.max_aspect_ratio, flags.disallowed_header_directives) == (None, 3.0, [])
    assert (flags.save_additional_columns, flags.verify_hash) == (["a", "b"], ["check", "md5"])
    assert read_flags(["urls.txt", "512", "out"]).output_folder == "out"
    assert read_flags(["--image_size", "128", "urls.txt", "out"]).output_folder == "out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image_size", "3"], "--url_list: missing"),
        (["--url_list", "x", "--imagesize", "3"], "did you mean image_size?"),
        (["--url_list", "x", "--image_size", "big"], "--image_size: input should be a valid integer"),
        (["--url_list", "x", "--output_format", "files"], "webdataset"),
        (["--url_list", "x", "--distributor", "pyspark"], "ray"),
        (["--url_list", "x", "--input_format", "xml"], "parquet"),
        (["--url_list", "x", "--incremental_mode", "again"], "extend"),
        (["--url_list", "x", "--verify_hash", "md5"], '["column", "md5"]'),
        (["x", *["1"] * len(Flags.model_fields)], "more words than flags"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(read_flags(arguments))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_config_that_results() -> None:
    words = "--url_list l.parquet --input_format parquet --url_col URL --caption_col TEXT --bbox_col faces --thread_count 32"
    flags = read_flags([*words.split(), "--verify_hash", '["hash", "md5"]', "--processes_count", "4", "--retries", "2"])
    config: dict[str, Any] = config_of(flags)
    assert config["input"]["columns"] == {"url": "URL", "caption": "TEXT", "expected_md5": "hash"}
    assert config["input"]["extra"] == ["faces"]
    stage = config["stages"][0]
    assert stage["verify_hash"] == ["expected_md5", "md5"]
    assert (stage["connections"], stage["retries"], stage["resources"]) == (32, 2, {"workers": 4})
    assert (stage["max_image_area"], config["shards"], config["output"]) == (
        None,
        {"rows": 10_000, "layout": "img2dataset"},
        "images",
    )
    assert options_of(flags).runner == "ray"
    assert options_of(read_flags(["l.txt"])).runner == "local"
    assert notes(flags) == []
    assert notes(read_flags(["l.txt", "--enable_wandb", "--subjob_size=5"])) == [
        "--subjob_size is without effect: work is dealt out unit by unit, and never waits for a subjob",
        "--enable_wandb is without effect: there is no wandb logger; run.json holds the counts",
    ]


def prepare(folder: Path, **flags: str) -> None:
    config = {"input": {"use": "read.urls", "path": "list.txt"}, "output": str(folder)}
    read = read_flags(["list.txt", f"--output_folder={folder}", *(f"--{name}={value}" for name, value in flags.items())])
    prepare_output(read, load_config(config))


def test_only_what_pairsift_wrote_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not written by pairsift"):
        prepare(tmp_path, incremental_mode="overwrite")
    (tmp_path / "cut.json").write_text("{}")
    prepare(tmp_path, incremental_mode="overwrite")
    assert not tmp_path.exists()


def test_a_folder_of_img2dataset_is_not_extended(tmp_path: Path) -> None:
    (tmp_path / "00000_stats.json").write_text("{}")
    with pytest.raises(ConfigError, match="finish that list first"):
        prepare(tmp_path, incremental_mode="extend")


def test_extend_adds_rows_behind_those_that_are_there(tmp_path: Path) -> None:
    from pairsift import run

    for name in ("first", "second"):
        pq.write_table(pa.table({"url": [f"file:///{name}/{i}" for i in range(3)]}), tmp_path / f"{name}.parquet")
    fates = []
    for name, mode in (("first", "incremental"), ("second", "extend"), ("second", "extend")):
        words = [
            str(tmp_path / f"{name}.parquet"),
            "--input_format=parquet",
            f"--incremental_mode={mode}",
            "--contact=a@b.example",
        ]
        run(config_of(read_flags([*words, f"--output_folder={tmp_path / 'out'}"])), runner="local")
        fates.append(pq.read_table(tmp_path / "out" / "fates.parquet")["url"].to_pylist())
    assert [len(urls) for urls in fates] == [3, 6, 6]
    assert fates[1][3:] == ["file:///second/0", "file:///second/1", "file:///second/2"]
