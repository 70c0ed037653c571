"""The members of samples: the image as it is, the row as JSON, the caption as text. Built by columns, not by rows."""

import base64
import datetime
import decimal
import itertools
import json
from json.encoder import encode_basestring_ascii
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.ledger import tar
from pairsift.pipeline.ledger.ranges import Numbers, References, read_into
from pairsift.pipeline.pack.rows import json_columns
from pairsift.stages.storage import is_remote

_INDENT = "    "
_AT_ONCE = 2 << 20  # bytes: larger pieces leave the cache between being read and being written
_AT_ONCE_REMOTE = 64 << 20  # bytes: enough requests under way to make up for their latency


def json_texts(table: pa.Table) -> pa.StringArray:
    """What `json.dumps(row, indent=4)` gives of each row, over the columns that a sample's JSON has."""
    parts: list[Any] = []
    before = "{\n" + _INDENT
    for name in json_columns(table):
        parts += [f"{before}{json.dumps(name)}: ", _json_values(table[name].combine_chunks())]
        before = ",\n" + _INDENT
    return pc.binary_join_element_wise(*parts, "\n}", "")


def _json_values(column: pa.Array) -> pa.StringArray:
    """Each value as JSON; "null" where it is null, or a number that JSON cannot say."""
    kind = column.type
    if pa.types.is_large_string(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if pa.types.is_string(kind):
        texts = pc.binary_join_element_wise('"', _escaped(column), '"', "")
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        texts = column.cast(pa.string())
    elif pa.types.is_floating(kind):
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
        texts = pa.array(map(float.__repr__, numbers.tolist()), pa.string(), size=len(numbers), mask=~np.isfinite(numbers))
    else:
        texts = pa.array([_nested(value) for value in column.to_pylist()], pa.string())
    return texts.fill_null("null") if texts.null_count else texts


def _nested(value: Any) -> str:
    """A value inside a row's object: one step further in."""
    return json.dumps(plain(value), indent=4).replace("\n", "\n" + _INDENT)  # within strings, JSON has no line ends


def _escaped(column: pa.StringArray) -> pa.StringArray:
    """The texts as they stand between JSON's quotes. Most need no change, and are found so without looking at each."""
    offsets, data = offsets_and_bytes(column)
    special = (data < 0x20) | (data >= 0x7F) | (data == ord('"')) | (data == ord("\\"))
    if not special.any():
        return column
    rows = np.unique(np.searchsorted(offsets, np.flatnonzero(special), side="right") - 1)
    mask = np.zeros(len(column), bool)
    mask[rows] = True
    mask &= column.is_valid().to_numpy(zero_copy_only=False)
    texts = column.filter(pa.array(mask)).to_pylist()
    return pc.replace_with_mask(
        column, pa.array(mask), pa.array([encode_basestring_ascii(t)[1:-1] for t in texts], pa.string())
    )


def offsets_and_bytes(column: pa.StringArray) -> tuple[Numbers, Numbers]:
    """Where each text begins, and the last ends, in the UTF-8 of all; and that, byte by byte. Nothing is copied."""
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    all_bytes = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return places - places[0], all_bytes[places[0] : places[-1]]


def _views(column: pa.StringArray) -> list[memoryview]:
    """The UTF-8 of each text, not copied; empty where it is null."""
    if not len(column):
        return []
    offsets, data = offsets_and_bytes(column)
    view, places = data.data, offsets.tolist()
    return [view[start:end] for start, end in itertools.pairwise(places)]


def captions(table: pa.Table) -> pa.StringArray:
    """The text member of each row: empty where the caption is null."""
    if "caption" not in table.column_names:
        return pa.array([""] * len(table), pa.string())
    return table["caption"].combine_chunks().cast(pa.string()).fill_null("")


class Samples:
    """The members of a table's rows as a tar holds them: KEY.EXTENSION, KEY.json and KEY.txt, sorted by suffix."""

    def __init__(self, table: pa.Table) -> None:
        self._keys, self._extensions = table["key"].to_pylist(), table["image_format"].to_pylist()
        self._texts = json_texts(table), captions(table)
        lengths = (table["image_length"], *map(pc.binary_length, self._texts))
        known = pc.is_in(table["image_format"], pa.array(["jpg", "png", "webp"]))  # of others, some begin with zeros
        self._known = known.to_numpy()
        self._sizes = np.stack([length.to_numpy().astype(np.int64) for length in lengths], axis=1)  # bytes: image, JSON, text

    def blocks(self) -> Numbers:
        """How many blocks of a tar each sample takes."""
        total: Numbers = tar.blocks(self._sizes).sum(axis=1)
        return total

    def write(self, references: References, file: BinaryIO) -> int:
        """Write all members, some megabytes at a time; returns how many bytes. Raises OSError as `read_into`."""
        heads = self._heads()
        names = [
            f"{key}.{s}".encode() for key, ext in zip(self._keys, self._extensions, strict=True) for s in (ext, "json", "txt")
        ]
        headers = tar.headers(names, self._sizes.ravel())
        texts = [_views(column) for column in self._texts]
        samples = np.append(heads.min(axis=1), self.blocks().sum())  # the block where each begins, and the last ends
        buffer = np.empty((0, tar.BLOCK), np.uint8)
        for first, last in itertools.pairwise(_pieces(samples, references)):
            rows, count = slice(first, last), int(samples[last] - samples[first])
            buffer = buffer if len(buffer) >= count else np.empty((count, tar.BLOCK), np.uint8)
            piece, before = buffer[:count], heads[rows] - samples[first]
            piece[(before + tar.blocks(self._sizes[rows]) - 1).ravel()] = 0  # last blocks: what data leaves of them is padding
            piece[before.ravel()] = headers[3 * first : 3 * last]
            view = piece.reshape(-1).data
            places = [_places(view, before[:, member], self._sizes[rows, member]) for member in range(3)]
            read_into(references[rows], places[0])
            references[rows].refuse_zeros(
                self._known[rows] & (piece[np.minimum(before[:, 0] + 1, count - 1), :2] == 0).all(axis=1)
            )
            for column, wanted in zip(texts, places[1:], strict=True):
                for text, place in zip(column[rows], wanted, strict=True):
                    place[:] = text
            file.write(view)
        return int(samples[-1]) * tar.BLOCK

    def _heads(self) -> Numbers:
        """The block of each member's header: a row per sample, in the order of `_sizes`."""
        orders = {e: np.argsort([e, "json", "txt"]) for e in set(self._extensions)}
        order = np.array([orders[extension] for extension in self._extensions], np.int64).reshape(-1, 3)
        blocks = np.take_along_axis(tar.blocks(self._sizes), order, axis=1)
        heads = np.empty_like(blocks)
        np.put_along_axis(heads, order, (np.cumsum(blocks) - blocks.ravel()).reshape(-1, 3), axis=1)
        return heads


def _pieces(samples: Numbers, references: References) -> list[int]:
    """Rows at which to begin anew, and the end: some megabytes, or one sample."""
    most = (_AT_ONCE_REMOTE if any(map(is_remote, references.uris)) else _AT_ONCE) // tar.BLOCK
    places = [0]
    while places[-1] < len(references):
        fitting = int(np.searchsorted(samples, samples[places[-1]] + most, side="right")) - 1
        places.append(max(fitting, places[-1] + 1))
    return places


def _places(view: memoryview, heads: Numbers, sizes: Numbers) -> list[memoryview]:
    """Where members' bytes go, after their headers."""
    starts = (heads + 1) * tar.BLOCK
    return [view[start:end] for start, end in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)]


def plain(value: Any) -> Any:
    """What JSON can hold of an Arrow value: not-a-number is null, bytes are base64, times are ISO 8601."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value
