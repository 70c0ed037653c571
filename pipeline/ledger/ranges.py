"""Byte ranges of images, read straight to where they are wanted."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsift.stages.storage import Folder, is_remote

Numbers = NDArray[Any]

_GAP = 16 << 10  # bytes: reading over what lies between two images costs less than another read
_TOGETHER = 512  # images of one read: each may need a part for the gap after it, and the system takes 1024 parts (IOV_MAX)
_REQUEST = 8 << 20  # bytes of one GET


@dataclass(frozen=True)
class References:
    """Where images lie: the file of each as an index into `uris`, and [offset, offset + length) in it, in bytes."""

    uris: list[str]
    files: Numbers
    offsets: Numbers
    lengths: Numbers
    payloads: frozenset[int] = frozenset()  # which of `uris` we have written

    @staticmethod
    def of(table: pa.Table, work: Folder) -> "References":
        """Of a table's image_path, image_offset and image_length, none of them null."""
        paths = pc.dictionary_encode(table["image_path"].combine_chunks())
        names = paths.dictionary.to_pylist()
        payloads = frozenset(n for n, path in enumerate(names) if not is_remote(path) and not path.startswith("/"))
        uris = [work.path(path) if n in payloads else path for n, path in enumerate(names)]
        offsets, lengths = (table[name].to_numpy() for name in ("image_offset", "image_length"))
        return References(uris, paths.indices.to_numpy(), offsets, lengths, payloads)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice) -> "References":
        return References(self.uris, self.files[rows], self.offsets[rows], self.lengths[rows], self.payloads)

    def refuse_zeros(self, zeros: Numbers) -> None:
        """`zeros`: bool, for each image whether it begins with zeros, which no image of ours does: a disk gives them for what
        it has lost. Raises OSError where one of a payload does."""
        for row in np.flatnonzero(zeros):
            if self.files[row] in self.payloads:
                where = f"{self.uris[self.files[row]]}: holds zeros at byte {self.offsets[row]:,}, where an image should be"
                raise OSError(f"{where}: the file is damaged; `pairsift check` says what to do")


def read_into(references: References, places: Sequence[memoryview]) -> None:
    """Read each image to its place, which has its length. Neighbours in a file are read together.

    Raises OSError where a file is missing or too short.
    """
    remote: list[tuple[References, Sequence[memoryview]]] = []
    for first, last in itertools.pairwise(_runs(references)):
        run = references[first:last]
        if is_remote(run.uris[run.files[0]]):
            remote.append((run, places[first:last]))
        else:
            _read_local(run, places[first:last])
    if remote:
        _read_remote(remote)


def _runs(references: References) -> list[int]:
    """Where runs of neighbours begin, and the end of the last."""
    files, starts = references.files, references.offsets
    ends = starts + references.lengths
    apart = (files[1:] != files[:-1]) | (starts[1:] < ends[:-1]) | (starts[1:] > ends[:-1] + _GAP)
    apart[_TOGETHER - 1 :: _TOGETHER] = True
    return [0, *(np.flatnonzero(apart) + 1).tolist(), len(files)] if len(files) else []


def _read_local(run: References, places: Sequence[memoryview]) -> None:
    uri, starts = run.uris[run.files[0]], run.offsets.tolist()
    end = starts[0]
    parts: list[memoryview] = []
    waste = memoryview(bytearray(_GAP))
    for start, place in zip(starts, places, strict=True):
        parts += (waste[: start - end], place)
        end = start + len(place)
    try:
        file = os.open(uri, os.O_RDONLY)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{uri}: images lie in it, and it is missing; `pairsift check` says what to do") from error
    try:
        if os.preadv(file, parts, starts[0]) == end - starts[0]:
            return
        for start, place in zip(starts, places, strict=True):
            _read_one(file, uri, start, place)
    finally:
        os.close(file)


def _read_one(file: int, uri: str, start: int, place: memoryview) -> None:
    done = 0
    while done < len(place):
        read = os.preadv(file, [place[done:]], start + done)
        if not read:
            raise _too_short(uri, start + len(place))
        done += read


def _read_remote(runs: list[tuple[References, Sequence[memoryview]]]) -> None:
    """All runs at once, as far as the file system can; a long one in several requests."""
    uris: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for run, _ in runs:
        end = int(run.offsets[-1] + run.lengths[-1])
        firsts = range(int(run.offsets[0]), max(end, int(run.offsets[0]) + 1), _REQUEST)
        uris += [run.uris[run.files[0]]] * len(firsts)
        starts += firsts
        ends += [min(first + _REQUEST, end) for first in firsts]
    found = iter(Folder(uris[0]).filesystem.cat_ranges(uris, starts, ends, on_error="raise"))
    for run, places in runs:
        first, end = int(run.offsets[0]), int(run.offsets[-1] + run.lengths[-1])
        data = b"".join(itertools.islice(found, len(range(first, max(end, first + 1), _REQUEST))))
        for start, place in zip(run.offsets.tolist(), places, strict=True):
            part = data[start - first : start - first + len(place)]
            if len(part) != len(place):
                raise _too_short(run.uris[run.files[0]], start + len(place))
            place[:] = part


def _too_short(uri: str, end: int) -> OSError:
    return OSError(f"{uri} ends before byte {end:,}: the file is damaged or was replaced; `pairsift check` says what to do")
