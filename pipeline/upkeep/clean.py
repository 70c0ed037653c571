"""What may go from a work folder: what no given output or config needs, and what dead processes left.

Layers go before the images that they cite, and later parts of a unit before earlier ones, so that a kill in between leaves
orphans, which the next clean finds, and never a reference to nothing.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.control.lock import hold, holder
from pairsift.pipeline.ledger import freed
from pairsift.pipeline.ledger.intake import read_generations
from pairsift.pipeline.ledger.layers import Ledger
from pairsift.pipeline.outputs import configs_of
from pairsift.pipeline.report.survey import output_config
from pairsift.pipeline.results import Results
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.rejects import Rejects
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder, is_remote

_PART = re.compile(r"(\d{9})(?:-(\d+))?\.parquet")
_SCRATCH = ("masks", "pack", "attempts")
Found = tuple[str, int]  # path within the folder, bytes


@dataclass
class Freed:
    """Files of one kind, and their bytes."""

    what: str
    files: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass
class Cleaning:
    """What can go from one work folder, by kind; `needed_by` are the outputs and configs that were looked at."""

    work: str
    needed_by: list[str]
    kinds: list[Freed] = field(default_factory=list)
    done: bool = False

    @property
    def bytes(self) -> int:
        return sum(kind.bytes for kind in self.kinds)

    def as_dict(self) -> dict[str, Any]:
        kinds = [{"what": kind.what, "files": len(kind.files), "bytes": kind.bytes} for kind in self.kinds]
        return {**asdict(self), "kinds": kinds, "bytes": self.bytes}


def clean(paths: Iterable[str], *, yes: bool, rejects: bool = False) -> list[Cleaning]:
    """Look at the work folders of these outputs and configs, and with `yes`, free what can go; with `rejects`, also images of
    rows that none of them keeps.

    Of a config, what its output was last made with counts as needed, too. Raises ConfigError where a path is neither, or a
    run is at work there; with `rejects`, also where a run has not come to its end, or work is on an object store.
    """
    configs: dict[str, list[tuple[str, Config]]] = {}
    for path in paths:
        for config in _configs(path):
            configs.setdefault(config.work, []).append((path, config))
    cleanings = []
    for work, needed in configs.items():
        with ExitStack() as stack:
            for uri in dict.fromkeys([work, *(config.output for _, config in needed)]):
                if yes:
                    stack.enter_context(hold(Folder(uri)))
                elif at_work := holder(Folder(uri)):
                    raise ConfigError(
                        f"{uri}: a run is at work there (process {at_work['pid']} on {at_work['host']}); wait for it"
                    )
            cleanings.append(_clean(Folder(work), needed, yes=yes))
            if rejects:
                _clean_rejects(cleanings[-1], needed, yes=yes)
    return cleanings


def _configs(path: str) -> list[Config]:
    if is_remote(path) or Path(path).is_dir():
        return [output_config(path)]
    config = load_config(path)
    try:
        return [config, output_config(config.output)]
    except ConfigError:  # nothing was made with it yet
        return [config]


def _clean(work: Folder, needed: list[tuple[str, Config]], *, yes: bool) -> Cleaning:
    used = {layer.name for _, config in needed for layer in Results(config).plan.layers}
    cleaning = Cleaning(work.uri, list(dict.fromkeys(path for path, _ in needed)))
    listed: set[str] = set()
    for what, found in _kinds(work, used):
        kind = Freed(what)
        for name, size in found:
            if name not in listed:
                listed.add(name)
                kind.files.append(name)
                kind.bytes += size
        if kind.files:
            cleaning.kinds.append(kind)
    outputs = {config.output: Folder(config.output) for _, config in needed if config.output != work.uri}
    scratch = [(output, name, size) for output in outputs.values() for name, size in _temporary(output)]
    if yes:
        for kind in cleaning.kinds:
            _free(work, kind.files)
        for output, name, _ in scratch:
            output.remove(name)
        cleaning.done = True
    if scratch:
        names = [output.path(name) for output, name, _ in scratch]
        cleaning.kinds.append(Freed("writes to outputs that did not end", names, sum(size for *_, size in scratch)))
    return cleaning


def _clean_rejects(cleaning: Cleaning, needed: list[tuple[str, Config]], *, yes: bool) -> None:
    plans = [Results(one).plan for _, config in needed for one in (configs_of(config) if config.outputs else [config])]
    rejects = Rejects(Folder(cleaning.work), plans)
    if rejects.payloads:
        cleaning.kinds.append(Freed("images of rows that none of these keeps, within", rejects.payloads, rejects.bytes))
    if yes:
        rejects.free()


def _kinds(work: Folder, used: set[str]) -> Iterator[tuple[str, Iterable[Found]]]:
    for name in work.names("layers"):
        if name not in used:
            yield f"layer that none of these needs: {name}", _layer_files(work, name)
    for name in work.names("payloads"):
        if name not in used:
            yield f"images of {name}", _files(work, f"payloads/{name}")
    for name in work.names("compact"):
        if name not in used:
            yield f"copies of {name}", _files(work, f"compact/{name}")
    for name in work.names(freed.FOLDER):
        if name not in used:
            yield f"notes on freed images of {name}", _files(work, f"{freed.FOLDER}/{name}")
    orphans = (_orphans(work, name) for name in work.names("payloads") if name in used)
    yield "images that no layer cites", chain.from_iterable(orphans)
    yield "rows of an intake that did not end", _beyond_generations(work)
    yield "writes that did not end", _temporary(work)
    for name in work.names():
        if name in _SCRATCH or name.startswith(("spill", "stop-")):
            yield f"{name}, of runs that are over", _scratch(work, name, used)


def _scratch(work: Folder, name: str, used: set[str]) -> Iterator[Found]:
    """Attempts at a layer that is needed stay: they tell the next run what has died before."""
    for path, size in _files(work, name):
        if name != "attempts" or path.split("/")[1] not in used:
            yield path, size


def _files(folder: Folder, name: str) -> Iterator[Found]:
    """The files below a folder, or the file of that name; temporary ones, too."""
    filesystem = folder.filesystem
    root = filesystem._strip_protocol(folder.uri).rstrip("/")  # noqa: SLF001 - fsspec has no public word for it
    try:
        entries = filesystem.ls(folder.path(name) if name else folder.uri, detail=True, refresh=True)
    except FileNotFoundError:
        return
    for entry in entries:
        path = entry["name"].rstrip("/").removeprefix(f"{root}/")
        if entry["type"] == "directory" and path != name:
            yield from _files(folder, path)
        elif entry["type"] != "directory":
            yield path, entry["size"] or 0


def _temporary(folder: Folder) -> Iterator[Found]:
    """On a disk only: an object store shows nothing before it is whole. Of an output, not what is in its work folder."""
    if not folder.local:
        return
    for place, folders, names in os.walk(folder.uri):
        if "generations" in folders and place != folder.uri:
            folders.clear()
            continue
        for name in names:
            if name.startswith(".") and name.endswith(".tmp"):
                with suppress(FileNotFoundError):
                    path = os.path.join(place, name)
                    yield os.path.relpath(path, folder.uri), os.path.getsize(path)


def _layer_files(work: Folder, name: str) -> list[Found]:
    return sorted(_files(work, f"layers/{name}"), key=_later_parts_first)


def _later_parts_first(found: Found) -> tuple[str, int]:
    folder, _, name = found[0].rpartition("/")
    match = _PART.fullmatch(name)
    return (f"{folder}/{match[1]}", -int(match[2] or 0)) if match else (found[0], 0)


def _orphans(work: Folder, name: str) -> Iterator[Found]:
    """Payloads of a layer that none of its files cites."""
    for folder in work.names(f"payloads/{name}"):
        payloads = dict(_files(work, f"payloads/{name}/{folder}"))
        cited: set[str] = set()
        for file in work.names(f"layers/{name}/{folder}"):
            cited |= _cited(work, f"layers/{name}/{folder}/{file}")
        yield from ((path, size) for path, size in payloads.items() if path.endswith(".tar") and path not in cited)


def _cited(work: Folder, path: str) -> set[str]:
    try:
        table = tables.read_table(work, path, ["image_path"])
    except pa.ArrowInvalid as error:
        raise OSError(f"{work.path(path)}: cannot be read: {error}; `pairsift check` says what to do") from error
    return set(pc.unique(table["image_path"]).to_pylist()) - {None}


def _beyond_generations(work: Folder) -> Iterator[Found]:
    generations = read_generations(Ledger(work.uri))
    units = sum(generation.units for generation in generations)
    for found in _files(work, f"layers/{generations[0].intake}") if generations else ():
        match = _PART.fullmatch(found[0].rpartition("/")[2])
        if match and int(match[1]) >= units:
            yield found


def _free(work: Folder, names: list[str]) -> None:
    for name in names:
        work.remove(name)
    if work.local:
        for folder in sorted({os.path.dirname(work.path(name)) for name in names}, reverse=True):
            with suppress(OSError):  # not empty
                os.removedirs(folder)
