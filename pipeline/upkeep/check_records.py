"""Records, which nothing can make again: can they be read, and are they there?"""

from collections.abc import Sequence

from pairsift.pipeline.ledger.freed import FOLDER as FREED
from pairsift.pipeline.ledger.intake import Generation
from pairsift.pipeline.ledger.records import read_object, read_table
from pairsift.pipeline.upkeep.problems import Findings
from pairsift.stages.storage import Folder

_REMEDY = "put it back from a copy, for nothing can make it again; then check again"


def look_at_records(work: Folder, generations: Sequence[Generation], found: Findings) -> bool:
    """Of a work folder; returns whether all of them can be read, without which its units cannot be judged."""
    before = len(found.problems)
    freed = [f"{FREED}/{layer}/{name}" for layer in work.names(FREED) for name in work.names(f"{FREED}/{layer}")]
    retries = [f"retries/{generation.number:05d}.parquet" for generation in generations if generation.retry]
    for name in [*(f"tombstones/{name}" for name in work.names("tombstones")), *retries, *freed]:
        try:
            read_table(work, name)
        except FileNotFoundError:
            found.add(work.path(name), "is missing", _REMEDY)
        except OSError:
            found.add(work.path(name), "is damaged", _REMEDY)
    return len(found.problems) == before


def look_at_places(output: Folder, found: Findings) -> None:
    """The places that `remove` has left empty in an output's shards."""
    try:
        read_object(output, "removed.json")
    except FileNotFoundError:
        pass
    except OSError:
        found.add(output.path("removed.json"), "is damaged", _REMEDY)
