"""What a reader gives of all its sources; each table on the way is held against the reader's own schema."""

from typing import Any

import pyarrow as pa

from pairsift.stages.base import Reader


def table(reader: Reader) -> pa.Table:
    """The rows of all sources, with `failure` and `failure_detail`; one source at least has to give a table."""
    return pa.concat_tables(_tables(reader))


def rows(reader: Reader) -> list[dict[str, Any]]:
    """The same as dicts; none where no source gives a table."""
    return [row for found in _tables(reader) for row in found.to_pylist()]


def _tables(reader: Reader) -> list[pa.Table]:
    reader.check()
    schema = reader.schema()
    found = [table for source in reader.sources() for table in reader.read(source)]
    for one in found:
        one.validate(full=True)
        assert one.schema.names == [*schema.names, "failure", "failure_detail"]
        assert one.schema.types[:-2] == schema.types
    return found
