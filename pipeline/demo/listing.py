"""The demo's list of URLs, in which it is known what each row is, and what a run made of it."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

TRUE, WRONG, DUPLICATE = "true", "wrong", "duplicate"
DUPLICATES = 6  # rows that are listed twice
SCORE = "clip_similarity"  # the column by which the similarity rule is known in `rejected_by`

# What is planted, where it points (BASE is the demo's server), and a caption.
_FAULTS: tuple[tuple[str, str, str | None], ...] = (
    ("404", "BASE/missing/harbour.jpg", "Fishing boats in the harbour of a small town"),
    ("404", "BASE/missing/summer-2009.jpg", "Summer holidays 2009, our tent on the camping site"),
    ("410", "BASE/gone.jpg", "Handmade wooden chair, sold"),
    ("500", "BASE/error.jpg", "View over the old town from the castle"),
    ("timeout", "BASE/slow/bridge.jpg", "Suspension bridge in the morning fog"),
    ("timeout", "BASE/slow/market.jpg", "Fruit and vegetables on a market stall"),
    ("html", "BASE/page.jpg", "Lighthouse on a rocky coast"),
    ("truncated", "BASE/truncated.jpg", "Astronaut in an orange suit, cut short"),
    ("tiny", "BASE/tiny.jpg", "Small grey button of a web page"),
    ("broken link", "http://nowhere.invalid/photos/waterfall.jpg", "Waterfall in a green forest"),
    ("broken link", "http://127.0.0.1:1/photos/library.jpg", "Reading room of the public library"),  # nobody listens on port 1
    ("bad url", "photos/windmill.jpg", "Windmill in a field of tulips"),
    ("bad url", "ftp://127.0.0.1/photos/owl.jpg", "Barn owl on a branch at night"),
    ("short caption", "BASE/photos/coffee.jpg", "IMG"),
    ("short caption", "BASE/photos/flower.jpg", ""),
    ("short caption", "BASE/photos/china.jpg", None),
)


class _Row(NamedTuple):
    url: str
    caption: str | None
    planted: str


@dataclass(frozen=True)
class Measured:
    """What became of the planted rows. Caught and lost both mean: rejected by the similarity rule."""

    wrong_caught: int
    wrong_total: int
    true_lost: int
    true_total: int
    outcomes: dict[str, dict[str, int]]  # what was planted → status → rows

    def sentence(self) -> str:
        return (
            f"caught {self.wrong_caught} of {self.wrong_total} planted wrong captions, "
            f"lost {self.true_lost} of {self.true_total} true ones"
        )


def captions() -> dict[str, dict[str, list[str]]]:
    """Name of the photo, without extension → "right" and "wrong" → captions."""
    text = Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8")
    listed: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    return listed


def listing(base_url: str, seed: int = 0) -> pa.Table:
    """The rows of the demo in an order that depends on the seed only.

    Columns `url`, `caption` (one is null) and `planted` (string): "true", "wrong", "duplicate" or the kind of fault.
    """
    random = Random(seed)
    rows = _captioned(base_url)
    rows += random.sample([row for row in rows if row.planted == TRUE], DUPLICATES)
    rows += [_Row(url.replace("BASE", base_url), caption, planted) for planted, url, caption in _FAULTS]
    random.shuffle(rows)
    rows = _mark_duplicates(rows)
    return pa.table(
        {
            "url": pa.array([row.url for row in rows], pa.string()),
            "caption": pa.array([row.caption for row in rows], pa.string()),
            "planted": pa.array([row.planted for row in rows], pa.string()),
        }
    )


def write(base_url: str, path: Path) -> pa.Table:
    """Write the listing to a Parquet file (`path`), and return it."""
    table = listing(base_url)
    pq.write_table(table, path)
    return table


def measure(fates: pa.Table, listed: pa.Table) -> Measured:
    """Compare what a run made of the rows (`fates.parquet`) with what was planted; row i of the listing has ordinal i.

    Reads the columns `ordinal`, `status` and `rejected_by` (null: no rule rejected it). Rows without a fate are not counted:
    a run of a part of the list is measured by that part. A true caption is lost only if the similarity rule rejected it.
    """
    planted = listed["planted"].take(fates["ordinal"]).to_pylist()
    dissimilar = pc.fill_null(pc.match_substring(fates["rejected_by"].cast(pa.string()), SCORE), False).to_pylist()
    statuses = fates["status"].cast(pa.string()).to_pylist()

    totals = Counter(planted)
    rejected = Counter(kind for kind, is_dissimilar in zip(planted, dissimilar, strict=True) if is_dissimilar)
    outcomes: dict[str, dict[str, int]] = defaultdict(dict)
    for (kind, status), count in sorted(Counter(zip(planted, statuses, strict=True)).items()):
        outcomes[kind][status] = count
    return Measured(rejected[WRONG], totals[WRONG], rejected[TRUE], totals[TRUE], dict(outcomes))


def _captioned(base_url: str) -> list[_Row]:
    return [
        _Row(f"{base_url}/photos/{photo}.jpg", caption, planted)
        for photo, kinds in captions().items()
        for kind, planted in (("right", TRUE), ("wrong", WRONG))
        for caption in kinds[kind]
    ]


def _mark_duplicates(rows: list[_Row]) -> list[_Row]:
    """The first of two equal rows keeps its name: deduplication keeps the first, too."""
    seen: set[_Row] = set()
    marked = []
    for row in rows:
        marked.append(row._replace(planted=DUPLICATE) if row in seen else row)
        seen.add(row)
    return marked
