"""Keys in a shard: for `shards.keys: source`, those that the samples had in the dataset that they were read from."""

from collections.abc import Iterable

import pyarrow as pa

_MOST = 80  # bytes: ustar has 100 for a member's name, and extensions follow


def keys_of_source(keys: Iterable[str], source_keys: Iterable[str | None]) -> pa.Array:
    """The source's key of each row of a shard, or the row's own where that cannot be a member's name or is taken.

    A name is no name if it is empty, long, absolute or leads out of a folder, if readers would cut it at a dot, or if it holds
    what is not printable. Rows are told apart by their keys, so of a key that several rows have the first has it.
    """
    used: set[str] = set()
    found: list[str] = []
    for own, theirs in zip(keys, source_keys, strict=True):
        key = theirs if theirs is not None and theirs not in used and _can_be_a_name(theirs) else own
        while key in used:  # another row's key in the source is this row's own
            key += "-"
        used.add(key)
        found.append(key)
    return pa.array(found, pa.string())


def _can_be_a_name(key: str) -> bool:
    *folders, last = key.split("/")
    if not last or "." in last or not key.isprintable() or "\ufffd" in key or len(key.encode()) > _MOST:
        return False
    return "\\" not in key and all(folder and folder.strip(".") for folder in folders) and not key.startswith("__")
