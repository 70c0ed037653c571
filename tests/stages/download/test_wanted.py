"""Hashes to verify and boxes to blur, as columns state them."""

import hashlib
from typing import Any

import pyarrow as pa
import pytest

from pairsift.stages.base import ConfigError
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.wanted import Wanted, boxes_of, check_hash, wanted_of
from pairsift.stages.fates import Failure
from pairsift.stages.pixels.coding import ImageError

BODY = b"a body"


@pytest.mark.parametrize("name", ["md5", "sha256", "sha512"])
def test_a_hash_may_be_written_in_capitals(name: Any) -> None:
    digest = hashlib.new(name, BODY).hexdigest()
    check_hash(BODY, name, digest)
    check_hash(BODY, name, f" {digest.upper()}\n")
    for wrong in (digest[:-1], "", None, "ä", digest.replace(digest[0], "g")):
        with pytest.raises(FetchError) as caught:
            check_hash(BODY, name, wrong)
        assert caught.value.failure is Failure.HASH_MISMATCH
        assert digest in str(caught.value)


def test_boxes_of_a_row() -> None:
    assert boxes_of(None) == boxes_of([]) == []
    assert boxes_of([[0, 0.25, 1, 1.05]]) == [(0.0, 0.25, 1.0, 1.05)]
    nan = float("nan")
    for wrong in (
        [[0, 0, 1]],
        [None],
        [[0, 0, 1, None]],
        [[0, 0, nan, 1]],
        [[0.5, 0, 0.4, 1]],
        [[0, 1, 1, 0]],
        [[0, 0, 200, 100]],
        [[0, 0, 1, 10**400]],
        [[0, 0, 1, "1"]],
        {"left": 0},
        "a face",
    ):
        with pytest.raises(ImageError) as caught:
            boxes_of(wrong)
        assert caught.value.failure is Failure.INVALID_BOXES


def test_columns_of_a_table() -> None:
    boxes = [[[0.0, 0.0, 1.0, 1.0]], None]
    table = pa.table({"url": ["a", "b"], "md5": ["x", None], "boxes": boxes, "nothing": pa.nulls(2)})
    assert wanted_of(table, None, None) == [Wanted(None, None)] * 2
    assert wanted_of(table, "md5", "boxes") == [Wanted("x", boxes[0]), Wanted(None, None)]
    assert wanted_of(table, "nothing", "nothing") == [Wanted(None, None)] * 2
    with pytest.raises(ConfigError, match=r"bbox_col: the column 'n' is int64; it must hold lists of"):
        wanted_of(pa.table({"n": [1]}), None, "n")
    with pytest.raises(ConfigError, match=r"verify_hash: the column 'boxes' is list"):
        wanted_of(table, "boxes", None)


def test_boxes_as_json_text() -> None:
    texts = ["[[0, 0.25, 1, 1.0]]", "[]", None, " ", "null", "0.1, 0.2", "[" * 100_000, "9" * 5000]
    found = [row.boxes for row in wanted_of(pa.table({"boxes": texts}), None, "boxes")]
    assert found == [[[0, 0.25, 1, 1.0]], [], None, None, None, *texts[5:]]
    for text in found[5:]:
        with pytest.raises(ImageError):
            boxes_of(text)
