"""`read.image_files`: a list of captions beside a folder of images, such as Flickr30k's."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from pairsift.stages import schema
from pairsift.stages.base import OPERATIONAL, ConfigError, Source
from pairsift.stages.fates import Failure
from pairsift.stages.read.formats.places import IMAGE_EXTENSIONS
from pairsift.stages.read.urls import Urls
from pairsift.stages.sources import extension
from pairsift.stages.storage import Folder, absolute, is_remote

_REFERENCE = (schema.SOURCE_KEY, *schema.IMAGE_REFERENCE)
_Place = tuple[str, int]  # the file's path or URL, and its bytes


class ImageFiles(Urls):
    """Captions from any list that read.urls reads, and images from files of a folder, where they are left.

    The column `file` says which file is a row's image: map it with `columns: {file: file_name}`, or take a preset (flickr30k,
    coco). Gives what read.urls gives, then `source_key` (the file's name as the list has it, without the #0 that Flickr30k puts
    behind it) and the image's place. A row whose file is not there, is empty or lies outside the folder is `missing_image`.
    """

    needs: ClassVar[str] = "file"

    folder: Annotated[str, OPERATIONAL] = Field(description="what the file names are relative to: a folder, or any fsspec URL")

    def check(self) -> None:
        super().check()
        if not is_remote(self.folder) and not os.path.isdir(self.folder):
            raise ConfigError(f"input.folder: {self.folder} is no folder")
        if not any(ours.name == "file" for _, ours in self.picks) and self.picks:
            raise ConfigError("input.columns must say which column is the file, such as {file: file_name, caption: caption}")

    def schema(self) -> pa.Schema:  # type: ignore[override]  # pydantic's, long deprecated
        return pa.schema([*(field for field in self._listed if field.name != "file"), *_REFERENCE])

    def read(self, source: Source) -> Iterator[pa.Table]:
        fields = pa.schema([*self.schema(), schema.FAILURE, schema.FAILURE_DETAIL])
        for table in self._read(source):
            failures, details = table["failure"].to_pylist(), table["failure_detail"].to_pylist()
            columns: dict[str, list[Any]] = {field.name: [] for field in _REFERENCE}
            for row, name in enumerate(_names(table)):
                place = self._place(name)
                path, length = place or (None, None)
                values = (name, path, 0 if place else None, length, _format(name) if place and name else None)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
                if place is None and failures[row] is None:
                    failures[row], details[row] = Failure.MISSING_IMAGE.value, f"{self.folder} has no such image: {name!r}"
            given = {field.name: table[field.name] for field in self._listed if field.name != "file"}
            given |= {field.name: pa.array(columns[field.name], field.type) for field in _REFERENCE}
            given |= {"failure": pa.array(failures, pa.string()), "failure_detail": pa.array(details, pa.string())}
            yield pa.table([given[name] for name in fields.names], schema=fields)

    def _place(self, name: str | None) -> _Place | None:
        """Where the image is, if it is a file in the folder."""
        if not name or "\0" in name or extension(name) not in IMAGE_EXTENSIONS:
            return None
        if self._listing is not None:
            return self._listing.get(name)
        path = os.path.realpath(os.path.join(self.folder, name))
        if not Path(path).is_relative_to(os.path.realpath(self.folder)) or not os.path.isfile(path):
            return None
        size = os.path.getsize(path)
        return (path, size) if size else None

    @cached_property
    def _listing(self) -> dict[str, _Place] | None:
        """By name, what a folder that is not local holds."""
        if not is_remote(self.folder):
            return None
        folder = Folder(absolute(self.folder))
        found = folder.filesystem.find(folder.uri, detail=True)
        root = folder.filesystem._strip_protocol(folder.uri).rstrip("/")  # noqa: SLF001 - fsspec has no public word for it
        full = folder.filesystem.unstrip_protocol
        return {path.removeprefix(f"{root}/"): (full(path), info["size"]) for path, info in found.items() if info.get("size")}


def _names(table: pa.Table) -> list[str | None]:
    names: list[str | None] = table["file"].cast(pa.string()).to_pylist()
    return [name and (name.rpartition("#")[0] if name.rpartition("#")[2].isdigit() and "#" in name else name) for name in names]


def _format(name: str) -> str:
    found = extension(name)
    return "jpg" if found == "jpeg" else found
