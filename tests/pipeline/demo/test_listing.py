from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pairsift.pipeline.demo import photos
from pairsift.pipeline.demo.listing import DUPLICATE, TRUE, WRONG, captions, listing, measure, write

BASE = "http://127.0.0.1:8000"


def planted(table: pa.Table) -> Counter:
    return Counter(table["planted"].to_pylist())


def test_every_photo_has_captions_and_every_caption_a_photo():
    assert {f"{name}.jpg" for name in captions()} == set(photos.load())


def test_no_caption_is_written_twice_and_each_looks_like_an_alt_text():
    written = [caption for kinds in captions().values() for kind in ("right", "wrong") for caption in kinds[kind]]
    assert len({caption.casefold() for caption in written}) == len(written)
    assert all(3 <= len(caption.split()) <= 14 and caption == caption.strip() for caption in written)
    for name, kinds in captions().items():
        assert set(kinds) == {"right", "wrong"}
        assert 3 <= len(kinds["right"]) <= 4, name
        assert 1 <= len(kinds["wrong"]) <= 2, name


def test_the_listing_holds_what_it_promises():
    table = listing(BASE)
    assert table.schema == pa.schema({"url": pa.string(), "caption": pa.string(), "planted": pa.string()})
    counts = planted(table)
    assert 110 <= table.num_rows <= 130
    assert 60 <= counts[TRUE] <= 80
    assert 25 <= counts[WRONG] <= 35
    assert counts[DUPLICATE] == 6
    faults = set(counts) - {TRUE, WRONG, DUPLICATE}
    assert faults == {"404", "410", "500", "timeout", "html", "truncated", "tiny", "broken link", "bad url", "short caption"}


def test_every_photo_url_is_served_and_base_is_replaced():
    names = photos.load()
    urls = listing(BASE)["url"].to_pylist()
    shown = [url.removeprefix(f"{BASE}/photos/") for url in urls if url.startswith(f"{BASE}/photos/")]
    assert set(shown) == set(names)
    assert not any("BASE" in url for url in urls)


def test_the_order_depends_on_the_seed_only():
    assert listing(BASE).equals(listing(BASE))
    assert not listing(BASE).equals(listing(BASE, seed=1))
    assert planted(listing(BASE)) == planted(listing(BASE, seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_a_duplicate_stands_after_its_original_and_nothing_else_is_listed_twice(seed):
    seen = set()
    for row in listing(BASE, seed).to_pylist():
        pair = (row["url"], row["caption"])
        assert (pair in seen) == (row["planted"] == DUPLICATE)
        seen.add(pair)


def test_write_gives_a_parquet_file_of_the_listing(tmp_path):
    table = write(BASE, tmp_path / "urls.parquet")
    assert pq.read_table(tmp_path / "urls.parquet").equals(table)


LISTED = pa.table({"planted": ["true", "wrong", "404", "true", "wrong", "true", "duplicate", "true"]})
RULE = "clip_similarity >= 0.28"


def fates(rows: list[tuple[int, str, str | None]]) -> pa.Table:
    ordinals, statuses, rejected_by = zip(*rows, strict=True)
    return pa.table(
        {
            "ordinal": pa.array(ordinals, pa.int64()),
            "status": pa.array(statuses, pa.string()),
            "rejected_by": pa.array(rejected_by, pa.string()),
        }
    )


ALL = fates(
    [
        (0, "success", None),
        (1, "rejected", RULE),
        (2, "failed_to_download", None),
        (3, "rejected", RULE),
        (4, "success", None),
        (5, "rejected", "least(original_width, original_height) >= 64"),
        (6, "duplicate", None),
        (7, "failed_to_download", None),
    ]
)


def test_measure_counts_caught_and_lost():
    measured = measure(ALL, LISTED)
    assert (measured.wrong_caught, measured.wrong_total) == (1, 2)
    assert (measured.true_lost, measured.true_total) == (1, 4)  # neither the small image nor the failed download counts
    assert measured.outcomes == {
        "404": {"failed_to_download": 1},
        "duplicate": {"duplicate": 1},
        "true": {"failed_to_download": 1, "rejected": 2, "success": 1},
        "wrong": {"rejected": 1, "success": 1},
    }
    assert measured.sentence() == "caught 1 of 2 planted wrong captions, lost 1 of 4 true ones"


def test_measure_goes_by_ordinal_not_by_position_and_takes_a_part():
    backwards = ALL.take(pa.array(range(ALL.num_rows))[::-1])
    assert measure(backwards, LISTED) == measure(ALL, LISTED)
    part = measure(ALL.slice(3, 2), LISTED)
    assert (part.wrong_caught, part.wrong_total, part.true_lost, part.true_total) == (0, 1, 1, 1)


def test_measure_reads_dictionary_encoded_columns_and_a_run_that_rejected_nothing():
    nothing = ALL.set_column(2, "rejected_by", pa.nulls(ALL.num_rows))
    nothing = nothing.set_column(1, "status", pc.dictionary_encode(nothing["status"]))
    measured = measure(nothing, LISTED)
    assert (measured.wrong_caught, measured.true_lost) == (0, 0)
    assert measured.outcomes["404"] == {"failed_to_download": 1}
