"""Samples that have more members than an image, its JSON and its text: those of the dataset that they were read from.

They are rarer than the others, and their members are written one by one.
"""

import itertools
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pairsift.pipeline.ledger import tar
from pairsift.pipeline.ledger.ranges import Numbers, References, read_into
from pairsift.pipeline.pack.sample import Samples, captions, json_texts
from pairsift.stages import schema

_AT_ONCE = 16 << 20  # bytes of members that are read together


def samples_of(table: pa.Table) -> "Samples | WideSamples":
    """The samples of rows with all columns that a shard needs."""
    name = schema.SOURCE_MEMBERS.name
    return WideSamples(table) if name in table.column_names and table[name].null_count < len(table) else Samples(table)


class WideSamples:
    """The members of a table's rows as a tar holds them: KEY.EXTENSION of the image, the JSON, the text and whatever else
    `source_members` names, sorted by suffix. Those lie in the file `image_path`, as the image does."""

    def __init__(self, table: pa.Table) -> None:
        self._keys = table["key"].to_pylist()
        texts = zip(json_texts(table).to_pylist(), captions(table).to_pylist(), strict=True)
        self._texts = [{"json": text.encode(), "txt": caption.encode()} for text, caption in texts]
        self._more = [members or [] for members in table[schema.SOURCE_MEMBERS.name].to_pylist()]
        images = zip(table["image_format"].to_pylist(), table["image_length"].to_pylist(), strict=True)
        # The lengths in bytes of what is to be read, the image first.
        self._read = [
            {extension: length} | {member["extension"]: member["length"] for member in more}
            for (extension, length), more in zip(images, self._more, strict=True)
        ]

    def blocks(self) -> Numbers:
        """How many blocks of a tar each sample takes."""
        rows = zip(self._read, self._texts, strict=True)
        sizes = ([*read.values(), *map(len, texts.values())] for read, texts in rows)
        return np.array([sum(map(tar.blocks, row)) for row in sizes], np.int64)

    def write(self, references: References, file: BinaryIO) -> int:
        """Write all members; returns how many bytes. Raises OSError as `read_into`."""
        written = 0
        for first, last in itertools.pairwise(self._pieces()):
            data = [[bytearray(length) for length in read.values()] for read in self._read[first:last]]
            read_into(self._references(references[first:last], first), [memoryview(member) for row in data for member in row])
            names: list[bytes] = []
            members: list[bytes | bytearray] = []
            for row, found in enumerate(data, first):
                sample = dict(zip(self._read[row], found, strict=True)) | self._texts[row]
                for extension in sorted(sample):
                    names.append(f"{self._keys[row]}.{extension}".encode())
                    members.append(sample[extension])
            sizes = np.array([len(member) for member in members], np.int64)
            for header, member in zip(tar.headers(names, sizes), members, strict=True):
                file.write(header.data)
                file.write(member)
                file.write(bytes(-len(member) % tar.BLOCK))
            written += int(tar.blocks(sizes).sum()) * tar.BLOCK
        return written

    def _pieces(self) -> list[int]:
        """Rows at which to begin anew, and the end: some megabytes, or one sample."""
        places, size = [0], 0
        for row, read in enumerate(self._read):
            size += sum(read.values())
            if size > _AT_ONCE and row > places[-1]:
                places.append(row)
                size = sum(read.values())
        return [*places, len(self._read)] if self._read else [0]

    def _references(self, images: References, first: int) -> References:
        """Where the image of each row lies, and then its other members."""
        more = self._more[first : first + len(images)]
        counts = [1 + len(members) for members in more]
        starts = zip(images.offsets.tolist(), more, strict=True)
        offsets = [place for start, members in starts for place in (start, *(member["offset"] for member in members))]
        lengths = [length for read in self._read[first : first + len(images)] for length in read.values()]
        return References(images.uris, np.repeat(images.files, counts), np.array(offsets), np.array(lengths))
