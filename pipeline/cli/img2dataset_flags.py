"""img2dataset's command line, read as its users write it, and the config that does the same. Nothing of it is imported."""

import ast
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pairsift.pipeline.cli.adopt import adopt, finished_shards
from pairsift.pipeline.config import Config, suggestion
from pairsift.pipeline.ledger.intake import read_generations
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.run import Options
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder, absolute

_MOST_UNIT_ROWS = 1000  # a unit's images are in memory until its payload is written
_FORMATS = ("txt", "csv", "tsv", "json", "jsonl", "parquet")
# What its engine does not ask for or look at. That it connects to any address is for the user to say.
_AS_IT_DOES = {"robots": False, "tdm_reservation": False, "content_usage": False, "orientation": "ignore"}
# Flags that change nothing here, and why. Said only where they are given.
_WITHOUT_EFFECT = {
    "subjob_size": "work is dealt out unit by unit, and never waits for a subjob",
    "max_shard_retry": "what is not done is done by the next run, and a row's faults are its own",
    "wandb_project": "there is no wandb logger",
    "enable_wandb": "there is no wandb logger; run.json holds the counts",
    "oom_shard_count": "shards are numbered with five digits, or more where there are more",
}


class Flags(BaseModel):
    """img2dataset 1.47's flags with its defaults, and four of ours at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url_list: str = Field(description="a file, a folder or a glob of URL lists; any fsspec URL")
    image_size: int = Field(256, description="side of the stored images in pixels")
    output_folder: str = Field("images", description="where to write; shards are in its folder shards/")
    processes_count: int = Field(1, gt=0, description="worker processes; with 1 all is done in this one")
    resize_mode: str = Field("border", description="no, border, keep_ratio, keep_ratio_largest or center_crop")
    resize_only_if_bigger: bool = Field(False, description="leave smaller images as they are")
    upscale_interpolation: str = Field("lanczos", description="interpolation where an image grows")
    downscale_interpolation: str = Field("area", description="interpolation where an image shrinks")
    encode_quality: int = Field(95, description="of the stored images; png: compression, 0 to 9")
    encode_format: str = Field("jpg", description="jpg, png or webp")
    skip_reencode: bool = Field(False, description="keep the original bytes where nothing was resized")
    output_format: str = Field("webdataset", description="only webdataset (img2dataset's own default is files)")
    input_format: str = Field("txt", description="txt, csv, tsv, json, jsonl, each may end in .gz, or parquet")
    url_col: str = Field("url", description="column of the URLs")
    caption_col: str | None = Field(None, description="column of the captions")
    bbox_col: str | None = Field(None, description="column of boxes to blur")
    thread_count: int = Field(256, gt=0, description="downloads under way at a time, per worker process")
    number_sample_per_shard: int = Field(10_000, gt=0, description="input rows per shard")
    extract_exif: bool = Field(True, description="write EXIF tags")
    save_additional_columns: list[str] | None = Field(None, description="other columns to carry along")
    timeout: float = Field(10, description="seconds; here for the whole answer")
    enable_wandb: bool = Field(False, description="without effect")
    wandb_project: str = Field("img2dataset", description="without effect")
    oom_shard_count: int = Field(5, description="without effect")
    compute_hash: str | None = Field("sha256", description="md5, sha256, sha512 or None")
    verify_hash: list[str] | None = Field(None, description='[column, type], such as ["md5", "md5"]')
    distributor: str = Field("multiprocessing", description="multiprocessing or ray")
    subjob_size: int = Field(1000, description="without effect")
    retries: int = Field(0, description="further attempts where the fault may pass")
    disable_all_reencoding: bool = Field(False, description="store every file as it came")
    min_image_size: int = Field(0, description="smallest shorter side in pixels")
    max_image_area: float = Field(math.inf, description="most pixels")
    max_aspect_ratio: float = Field(math.inf, description="longer side to shorter side, at most")
    incremental_mode: str = Field("incremental", description="incremental: go on; overwrite: start anew; extend: add rows")
    max_shard_retry: int = Field(1, description="without effect")
    user_agent_token: str | None = Field(None, description="the product name in User-Agent")
    disallowed_header_directives: list[str] | None = Field(None, description="of X-Robots-Tag; [] asks for none")
    # Ours.
    contact: str | None = Field(None, description="URL or e-mail address of whoever runs this; stands in User-Agent")
    engine: str = Field("pairsift", description="img2dataset: its own fetch and resizing behind all this")
    allow_private_addresses: bool = Field(False, description="connect to loopback and private addresses as well")
    robots: bool | None = Field(None, description="ask for robots.txt; default: as the download stage does")

    @field_validator("*", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "None" else value

    @field_validator("save_additional_columns", "verify_hash", "disallowed_header_directives", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        """As Fire reads it: a Python list, or words between commas, with or without brackets."""
        if not isinstance(value, str):
            return value
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found = [word.strip().strip("'\"") for word in value.strip("[]()").split(",") if word.strip()]
        return [str(word) for word in found] if isinstance(found, list | tuple) else [str(found)]


def read_flags(arguments: Sequence[str]) -> Flags:
    """`--name value`, `--name=value`, bare `--name` and `--noname` for booleans, hyphens or underscores, as Fire takes them;
    words without a name are the first of the other flags, in order. Raises ConfigError, one line, for what is wrong."""
    try:
        return Flags.model_validate(_words(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise ConfigError(f"--{name}: missing; {Flags.model_fields[name].description}") from None
        raise ConfigError(f"--{name}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {first['input']!r}") from None


def _words(arguments: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    unnamed: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            unnamed.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if not equals:
            value = rest.pop(0) if rest and not re.match(r"--?[A-Za-z]", rest[0]) else "True"
        if name not in Flags.model_fields and name.startswith("no") and value == "True":
            name, value = name.removeprefix("no"), "False"
        if name not in Flags.model_fields:
            raise ConfigError(f"--{name}: img2dataset has no such flag{suggestion(name, Flags.model_fields)}")
        given[name] = value
    free = [name for name in Flags.model_fields if name not in given]
    if len(unnamed) > len(free):
        raise ConfigError(f"{unnamed[len(free)]!r}: there are more words than flags that they could be for")
    return {**given, **dict(zip(free, unnamed, strict=False))}


def config_of(flags: Flags) -> dict[str, Any]:
    """The config that does what the flags say. Raises ConfigError for what pairsift does not do, with the reason."""
    _refuse(flags)
    return {
        "input": _input(flags),
        "output": flags.output_folder,
        "stages": [{"use": "download", **_download(flags)}],
        "shards": {"rows": flags.number_sample_per_shard, "layout": "img2dataset"},
    }


def options_of(flags: Flags) -> Options:
    """One process needs no Ray; more of them, or `distributor: ray`, do."""
    return Options(runner="local" if flags.distributor == "multiprocessing" and flags.processes_count == 1 else "ray")


def notes(flags: Flags) -> list[str]:
    """One line for each flag that was given and changes nothing."""
    return [
        f"--{name} is without effect: {reason}" for name, reason in _WITHOUT_EFFECT.items() if name in flags.model_fields_set
    ]


def prepare_output(flags: Flags, config: Config) -> list[str]:
    """Do what `incremental_mode` says of what is in the folder already; returns lines that say what was done.

    Raises ConfigError where that is neither ours nor img2dataset's to go on with.
    """
    output = Folder(flags.output_folder)
    names = output.names()
    ours = "cut.json" in names
    if flags.incremental_mode == "overwrite" and names:
        if not ours:
            raise ConfigError(f"{output.uri}: not written by pairsift, so it is not removed; name another output_folder")
        output.filesystem.rm(output.uri, recursive=True)
    if ours or flags.incremental_mode == "overwrite" or not finished_shards(output):
        return []
    if flags.incremental_mode == "extend":
        raise ConfigError(f"{output.uri}: holds shards of img2dataset; finish that list first (incremental_mode incremental)")
    return adopt(config, output)


def _refuse(flags: Flags) -> None:
    if flags.input_format.removesuffix(".gz") not in _FORMATS:
        raise ConfigError(f"--input_format {flags.input_format}: there are {', '.join(_FORMATS)}")
    if flags.output_format != "webdataset":
        raise ConfigError(f"--output_format {flags.output_format}: pairsift writes webdataset (tar and Parquet) only")
    if flags.distributor not in ("multiprocessing", "ray"):
        raise ConfigError(f"--distributor {flags.distributor}: there are multiprocessing (on this machine) and ray")
    if flags.incremental_mode not in ("incremental", "overwrite", "extend"):
        raise ConfigError(f"--incremental_mode {flags.incremental_mode}: there are incremental, overwrite and extend")
    if flags.verify_hash is not None and len(flags.verify_hash) != 2:
        raise ConfigError(f'--verify_hash: write it as ["column", "md5"], not {flags.verify_hash!r}')


def _input(flags: Flags) -> dict[str, Any]:
    source: dict[str, Any] = {
        "use": "read.urls",
        "path": _paths(flags),
        "format": flags.input_format.removesuffix(".gz"),
        "unit_rows": min(flags.number_sample_per_shard, _MOST_UNIT_ROWS),
    }
    if source["format"] == "txt":
        return source
    columns = {"url": flags.url_col}
    if flags.caption_col is not None:
        columns["caption"] = flags.caption_col
    if flags.verify_hash is not None:
        columns[_expected(flags.verify_hash)] = flags.verify_hash[0]
    extra = [*(flags.save_additional_columns or []), *([flags.bbox_col] if flags.bbox_col else [])]
    return {**source, "columns": columns, "extra": [name for name in extra if name not in columns.values()]}


def _paths(flags: Flags) -> list[str]:
    """With `extend`, the lists that were taken in before come first: their rows stay as they are."""
    taken: list[str] = []
    if flags.incremental_mode == "extend":
        work = Ledger(f"{absolute(flags.output_folder).rstrip('/')}/work")
        taken = [source.uri for generation in read_generations(work) for source in generation.sources]
    return [*taken, *([flags.url_list] if absolute(flags.url_list) not in taken else [])]


def _expected(verify_hash: list[str]) -> str:
    return f"expected_{verify_hash[1]}"


def _download(flags: Flags) -> dict[str, Any]:
    same = (
        *("image_size", "resize_mode", "resize_only_if_bigger", "upscale_interpolation", "downscale_interpolation"),
        *("encode_quality", "encode_format", "skip_reencode", "disable_all_reencoding", "min_image_size"),
        *("extract_exif", "compute_hash", "timeout", "retries", "user_agent_token", "bbox_col"),
        *("contact", "engine", "allow_private_addresses"),
    )
    stage: dict[str, Any] = {name: getattr(flags, name) for name in same}
    stage |= {name: _bound(getattr(flags, name)) for name in ("max_image_area", "max_aspect_ratio")}
    stage["connections"] = flags.thread_count
    stage["resources"] = {"workers": flags.processes_count}
    if flags.verify_hash is not None:
        stage["verify_hash"] = [_expected(flags.verify_hash), flags.verify_hash[1]]
    asked = {"disallowed_header_directives": flags.disallowed_header_directives, "robots": flags.robots}
    stage |= {name: value for name, value in asked.items() if value is not None}
    return {**_AS_IT_DOES, **stage} if flags.engine == "img2dataset" else stage


def _bound(value: float) -> float | None:
    return None if math.isinf(value) else value
