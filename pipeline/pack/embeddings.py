"""The embeddings of a shard's samples beside it, in clip-retrieval's layout, for autofaiss, embedding-reader and their like.

    embeddings/img_emb/img_emb_00000.npy      (samples, dim) float16 in C order: row i is sample i of shards/00000.tar
    embeddings/text_emb/text_emb_00000.npy    the same of the captions
    embeddings/metadata/metadata_00000.parquet    the samples' rows, `image_path` (the key) first

With `as: l14`, all of that in embeddings/l14. A sample without a vector (no caption) has zeros. Checked against
clip-retrieval 2.45 and embedding-reader 1.8.
"""

from collections.abc import Iterable
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.parquet import parquet_options
from pairsift.pipeline.plan import EMBEDDINGS
from pairsift.stages.storage import Folder

FOLDER = "embeddings"
_KINDS = {"image_embedding": "img_emb", "text_embedding": "text_emb"}
assert _KINDS.keys() == set(EMBEDDINGS)


class Place(NamedTuple):
    """A column of vectors, and where it goes."""

    column: str
    model: str  # folder of one model's files: "embeddings", or with `as` "embeddings/NAME"
    kind: str  # img_emb or text_emb

    def file(self, shard: str) -> str:
        return f"{self.model}/{self.kind}/{self.kind}_{shard}.npy"


def places(columns: Iterable[str]) -> list[Place]:
    """Where these columns of vectors go."""
    found = []
    for column in columns:
        ours = next(name for name in EMBEDDINGS if column.endswith(name))
        prefix = column.removesuffix(ours).rstrip("_")
        found.append(Place(column, f"{FOLDER}/{prefix}" if prefix else FOLDER, _KINDS[ours]))
    return found


def files_of(columns: Iterable[str], shard: str) -> list[str]:
    """All files of a shard's embeddings."""
    found = places(columns)
    return [*(place.file(shard) for place in found), *(metadata_file(model, shard) for model in _models(found))]


def metadata_file(model: str, shard: str) -> str:
    """Where the rows of a shard go beside the vectors of a model."""
    return f"{model}/metadata/metadata_{shard}.parquet"


def write(output: Folder, columns: Iterable[str], shard: str, samples: pa.Table, rows: pa.Table) -> None:
    """Write the files of one shard: vectors of `samples`, and of these the packed columns, `rows`."""
    found = places(columns)
    for place in found:
        output.write(place.file(shard), _npy(samples[place.column]))
    public = pa.table([rows["key"], *rows.columns], names=["image_path", *rows.column_names])
    sink = BytesIO()
    pq.write_table(public, sink, row_group_size=max(1, len(public)), **parquet_options(public.schema))
    for model in _models(found):
        output.write(metadata_file(model, shard), sink.getvalue())


def missing(output: Folder, columns: Iterable[str], shards: Iterable[str]) -> set[str]:
    """The shards of which a file is not there."""
    wanted = {shard: files_of(columns, shard) for shard in shards}
    folders = {file.rpartition("/")[0] for files in wanted.values() for file in files}
    there = {f"{folder}/{name}" for folder in folders for name in output.names(folder)}
    return {shard for shard, files in wanted.items() if not there.issuperset(files)}


def remove_others(output: Folder, columns: Iterable[str], shards: Iterable[str]) -> None:
    """Remove the files of shards that are not among these, and of columns that are no longer asked for; and what writers left
    that died."""
    wanted = {file for shard in shards for file in files_of(columns, shard)}
    for name in listed(output):
        if name not in wanted:
            output.remove(name)
    for folder in sorted({file.rpartition("/")[0] for file in wanted}):
        output.sweep(folder)


def listed(output: Folder, folder: str = FOLDER) -> list[str]:
    """The files below a folder that are called as ours are."""
    found = []
    for name in output.names(folder):
        path = f"{folder}/{name}"
        if name.endswith((".npy", ".parquet")):
            found.append(path)
        elif "." not in name:
            found += listed(output, path)
    return found


def shard_of(file: str) -> str:
    """The shard that a file is of, by its name."""
    return file.rpartition("_")[2].partition(".")[0]


def _models(found: Iterable[Place]) -> list[str]:
    return list(dict.fromkeys(place.model for place in found))


def _npy(column: pa.ChunkedArray) -> bytes:
    """The file's bytes: an .npy of version 1.0, little-endian."""
    vectors = column.combine_chunks()
    width = vectors.type.list_size
    matrix = np.zeros((len(vectors), width), "<f2")
    there = vectors.is_valid().to_numpy(zero_copy_only=False)
    matrix[there] = vectors.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    sink = BytesIO()
    np.lib.format.write_array(sink, matrix, version=(1, 0), allow_pickle=False)
    return sink.getvalue()
