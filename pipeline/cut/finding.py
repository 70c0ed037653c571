"""Finders played: selectors whose answer is no query."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator

import pyarrow as pa

from pairsift.pipeline.control import machine
from pairsift.stages.base import ConfigError, Finder, Scratch

SHARE_OF_MEMORY = 0.3  # of the machine's, for what a finder holds

_GIVEN = pa.schema([("ordinal", pa.int64()), ("duplicate_of", pa.int64()), ("score", pa.float64())])


def found(finder: Finder, tables: Iterator[pa.Table], folder: str, check: Callable[[], None]) -> pa.RecordBatchReader:
    """The rows that a finder takes out: ordinal, score, duplicate_of.

    `tables` are the rows that are alive. `folder` is made for the finder's files, and removed. Raises ConfigError in the
    finder's name.
    """
    first = next(tables, None)
    if first is None:
        return pa.RecordBatchReader.from_batches(_GIVEN.empty_table().schema, [])
    batches = (batch for table in itertools.chain([first], tables) for batch in table.to_batches())
    os.makedirs(folder, exist_ok=True)
    try:
        rows = pa.RecordBatchReader.from_batches(first.schema, batches)
        gone = finder.find(rows, Scratch(folder, int(SHARE_OF_MEMORY * machine.memory()), check))
    except ConfigError as error:
        raise ConfigError(f"{finder.use}: {str(error).removeprefix(f'{finder.use}: ')}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return gone.select(_GIVEN.names).cast(_GIVEN).to_reader(1 << 20)
