"""Small files that a work folder or an output has one of, and that nothing can make again."""

import json
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsift.stages.storage import Folder


def read_table(folder: Folder, name: str) -> pa.Table:
    """A record in Parquet. Raises FileNotFoundError, and OSError for a damaged one."""
    data = folder.read(name)
    try:
        return pq.ParquetFile(BytesIO(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(folder, name) from error


def read_object(folder: Folder, name: str) -> dict[str, Any]:
    """A record in JSON. Raises FileNotFoundError, and OSError for a damaged one."""
    data = folder.read(name)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise _damaged(folder, name) from error
    if not isinstance(found, dict):
        raise _damaged(folder, name)
    return found


def _damaged(folder: Folder, name: str) -> OSError:
    return OSError(f"{folder.path(name)}: damaged, and nothing can make it again; put it back from a copy")
