"""A half-finished folder of img2dataset, gone on with: what its finished shards hold is not downloaded again.

Their rows become rows of the download's layer. Images stay where they are: the layer refers to the old tars, or files. A shard
is finished where its `_stats.json` is; img2dataset numbers rows by their place in the list, which is what ordinals are.
"""

import math
import tarfile
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.config import Config
from pairsift.pipeline.ledger.intake import Generation, Intake
from pairsift.pipeline.ledger.layers import Layer, Ledger
from pairsift.pipeline.plan import make_plan
from pairsift.stages import schema
from pairsift.stages.base import ConfigError
from pairsift.stages.fates import Status
from pairsift.stages.img2dataset_messages import fetch_failure, resize_failure
from pairsift.stages.storage import Folder

Row = dict[str, Any]
_END = "_stats.json"


def finished_shards(folder: Folder) -> list[str]:
    """Names of the shards that img2dataset has finished there, in order."""
    return [name.removesuffix(_END) for name in folder.names() if name.endswith(_END) and name.removesuffix(_END).isdigit()]


def adopt(config: Config, folder: Folder) -> list[str]:
    """Take over the folder's finished shards, made from the config's list with `shards.rows` rows each. The config's first
    stage is the download. Returns lines that say what was done; rows that the ledger has are left as they are.

    Raises ConfigError where the shards are not of this list.
    """
    plan = make_plan(config)
    layer = plan.steps[0].layer
    assert layer is not None
    shards = finished_shards(folder)
    _check_format(folder, shards)
    ledger = Ledger(config.work)
    generation = _only(Intake(ledger, plan.intake, config.input).take_in(), folder)
    adopted, damaged = 0, []
    for name in shards:
        try:
            rows = _rows(folder, name, config.shards.rows)
        except (tarfile.TarError, pa.ArrowInvalid) as error:
            damaged.append(f"{folder.path(name)} is damaged ({error}); its rows are downloaded again")
            continue
        by_unit: dict[int, list[Row]] = {}
        for row in rows:
            by_unit.setdefault(row["ordinal"] // generation.unit_rows, []).append(row)
        for unit, unit_rows in sorted(by_unit.items()):
            _check_urls(ledger, plan.intake, unit, unit_rows, folder.path(f"{name}.parquet"))
            adopted += _commit(ledger, layer, unit, unit_rows)
    taken = f"{adopted:,} rows are taken over from the shards of img2dataset in {folder.uri}; keep those, as images stay there"
    return [*damaged, taken]


def _check_format(folder: Folder, shards: list[str]) -> None:
    there = set(folder.names())
    for name in shards:
        if f"{name}.parquet" not in there or not {name, f"{name}.tar"} & there:
            raise ConfigError(
                f"{folder.uri}: shard {name} of img2dataset has no images as webdataset or files; one of another output_format "
                "cannot be gone on with; name another output_folder"
            )


def _only(generations: list[Generation], folder: Folder) -> Generation:
    if len(generations) != 1 or len(generations[0].sources) != 1:
        raise ConfigError(f"{folder.uri}: shards of img2dataset can be gone on with for a list that is one file only")
    return generations[0]


def _rows(folder: Folder, name: str, shard_rows: int) -> list[Row]:
    """The shard's rows with the columns that a download's layer has, by the names that they have there, and `url`."""
    with folder.filesystem.open(folder.path(f"{name}.parquet"), "rb") as file:
        listed = pq.read_table(file, use_threads=False).to_pylist()
    images = _images_of_tar(folder, f"{name}.tar") if folder.exists(f"{name}.tar") else _images_of_files(folder, name)
    first_key = int(name) * 10 ** math.ceil(math.log10(shard_rows))
    rows = []
    for row in listed:
        row["ordinal"] = int(name) * shard_rows + int(row["key"]) - first_key
        if row["status"] == Status.SUCCESS.value:
            if row["key"] not in images:  # it is downloaded again
                continue
            row.update(images[row["key"]])
        else:
            message = row["error_message"] or ""
            row["failure"] = (resize_failure if row["status"] == Status.FAILED_TO_RESIZE.value else fetch_failure)(
                message
            ).value
            row["failure_detail"] = message
        rows.append(row)
    return rows


def _images_of_tar(folder: Folder, name: str) -> dict[str, Row]:
    """Key → reference of the image."""
    with folder.filesystem.open(folder.path(name), "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        return _references((folder.path(name), member.offset_data, member.size, member.name) for member in tar)


def _images_of_files(folder: Folder, name: str) -> dict[str, Row]:
    """The same, for `output_format files`: each image is a file by itself."""
    files = folder.filesystem.ls(folder.path(name), detail=True)
    names = ((file["name"].rpartition("/")[2], file["size"]) for file in files)
    return _references((folder.path(f"{name}/{file}"), 0, size, file) for file, size in names)


def _references(found: Iterable[tuple[str, int, int, str]]) -> dict[str, Row]:
    """From path, offset, length and name of each member."""
    fields = [field.name for field in schema.IMAGE_REFERENCE]
    rows = {}
    for path, offset, length, name in found:
        key, _, extension = name.partition(".")
        if extension not in ("json", "txt"):
            rows[key] = dict(zip(fields, (path, offset, length, extension), strict=True))
    return rows


def _check_urls(ledger: Ledger, intake: Layer, unit: int, rows: list[Row], shard: str) -> None:
    table = ledger.read(intake, unit, ["url"])
    listed = {} if table is None else dict(zip(table["ordinal"].to_pylist(), table["url"].to_pylist(), strict=True))
    for row in rows:
        if row["ordinal"] not in listed or listed[row["ordinal"]] != row["url"]:
            raise ConfigError(
                f"{shard}: its row {row['key']} is not row {row['ordinal']} of this list: another list, or another "
                "number_sample_per_shard; name another output_folder"
            )


def _commit(ledger: Ledger, layer: Layer, unit: int, rows: list[Row]) -> int:
    done = ledger.read(layer, unit, [])
    there = set() if done is None else set(done["ordinal"].to_pylist())
    new = sorted((row for row in rows if row["ordinal"] not in there), key=lambda row: int(row["ordinal"]))
    if new:
        ledger.commit(layer, unit, pa.Table.from_pylist(new, schema=layer.schema))
    return len(new)
