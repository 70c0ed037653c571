"""Parquet files, read on this thread alone: Arrow's threads abort a process that ends right after they have begun.

`terminate called without an active exception`, one time in 25 with pyarrow 26.0.1 and its `read_table`; never without threads.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.stages.storage import Folder


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows, and these columns (None: all). Raises FileNotFoundError, and ArrowException or OSError for a damaged file."""
    return parse(folder.read(name), columns)


def parse(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The same of a file's bytes."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(None if columns is None else list(columns), use_threads=False)


def batches(folder: Folder, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file that may be large."""
    with folder.filesystem.open(folder.path(name), "rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        yield from parquet.iter_batches(columns=None if columns is None else list(columns), use_threads=False)
