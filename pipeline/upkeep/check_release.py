"""The release beside the shards: is each file there and whole, and are its rows those that were kept?"""

from io import BytesIO

import numpy as np
import pyarrow as pa

from pairsift.pipeline.pack import release
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.problems import AGAIN, Findings, reason
from pairsift.stages.storage import Folder


def look_at_release(output: Folder, config: object, kept: int | None, found: Findings) -> None:
    """`config`: the section `release` of the output's config; what is there without one is an earlier run's. `kept`: rows by
    fates.parquet, None where that cannot be read."""
    folder = output / release.FOLDER
    there = sorted(name for name in folder.names() if release.is_ours(name))
    if not isinstance(config, dict):
        for name in there:
            found.add(folder.path(name), "the output's config has no release", f"{AGAIN}, and it is removed")
        return
    if kept is not None:
        files = max(1, -(-kept // config["rows"]))
        wanted = {release.name_of(number) for number in range(files)} | ({release.SUBSET} if config.get("subset") else set())
        for name in sorted(wanted - set(there)):
            found.add(folder.path(name), "is missing", AGAIN)
        for name in sorted(set(there) - wanted):
            found.add(folder.path(name), "is not of this release", f"{AGAIN}, and it is removed")
        there = [name for name in there if name in wanted]
    for name in there:
        found.count("files of the release")
        fault = _fault(folder, name, _rows_of(name, config["rows"], kept))
        if fault:
            path = folder.path(name)
            found.add(path, fault, f"remove {path} and {AGAIN}", [path])


def _rows_of(name: str, each: int, kept: int | None) -> int | None:
    """How many rows a file is to have."""
    if kept is None or name == release.SUBSET:
        return kept
    return min(each, kept - each * int(name.partition(".")[0]))


def _fault(folder: Folder, name: str, wanted: int | None) -> str | None:
    try:
        if name == release.SUBSET:
            uids = np.load(BytesIO(folder.read(name)), allow_pickle=False)
            if uids.dtype != release.UID or not np.array_equal(uids, np.sort(uids)):
                return "is no sorted list of uids"
            rows = len(uids)
        else:
            rows = sum(map(len, tables.batches(folder, name)))
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        return f"cannot be read: {reason(error)}"
    return None if wanted in (None, rows) else f"has {rows:,} rows, and is to have {wanted:,}"
