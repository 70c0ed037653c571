"""Images that nobody kept, and whose bytes `pairsift clean --rejects` has given up.

    work/freed/<layer>/00000.parquet    ordinals, rising: rows whose images in this layer may be zeros

All that was computed from them stays, so that the rules that rejected them go on doing so. Where another rule would keep such a
row, or another stage look at its image, the cut has it fail at the step that had made the image, with `image_freed`:
`--retry-failed` then makes it again.
"""

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.pipeline.ledger.layers import Numbers
from pairsift.stages.storage import Folder

FOLDER = "freed"
_SCHEMA = pa.schema([pa.field("ordinal", pa.int64(), nullable=False)])
_ROWS_PER_GROUP = 1 << 16
_ROWS_PER_FILE = 1 << 24


class FreedImages:
    """Of one layer, by its name. True where there are any."""

    def __init__(self, work: Folder, layer: str) -> None:
        self._work = work
        self._files = [f"{FOLDER}/{layer}/{name}" for name in work.names(f"{FOLDER}/{layer}")]

    def __bool__(self) -> bool:
        return bool(self._files)

    def between(self, first: int, end: int) -> Numbers:
        """Ordinals in [first, end), rising. Raises OSError where a file is damaged."""
        bounds = [("ordinal", ">=", first), ("ordinal", "<", end)]
        found = [np.empty(0, np.int64), *(self._read(file, bounds) for file in self._files)]
        return np.unique(np.concatenate(found))

    def _read(self, file: str, bounds: list[tuple[str, str, int]]) -> Numbers:
        path, filesystem = self._work.path(file), None if self._work.local else self._work.filesystem
        try:
            table = pq.read_table(path, filters=bounds, filesystem=filesystem, use_threads=False)
        except pa.ArrowInvalid as error:
            raise OSError(f"{path}: damaged, and nothing can make it again; put it back from a copy") from error
        ordinals: Numbers = table["ordinal"].to_numpy()
        return ordinals


def note(work: Folder, layer: str, ordinals: Numbers) -> None:
    """Add rows, rising. From then on nobody reads their images."""
    number = len(work.names(f"{FOLDER}/{layer}"))
    for start in range(0, len(ordinals), _ROWS_PER_FILE):
        sink = BytesIO()
        table = pa.table([pa.array(ordinals[start : start + _ROWS_PER_FILE], pa.int64())], schema=_SCHEMA)
        pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP, use_dictionary=False, column_encoding="DELTA_BINARY_PACKED")
        work.write(f"{FOLDER}/{layer}/{number:05d}.parquet", sink.getvalue())
        number += 1
