"""Arrow's way and the other give the same, whatever the documents are."""

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from pairsift.stages.read.formats import json_batches
from pairsift.stages.read.formats.json_batches import read_objects

WANTED = pa.schema(
    [("t", pa.string()), ("n", pa.int64()), ("w", pa.int32()), ("x", pa.float64()), ("b", pa.bool_()), ("u", pa.string())]
)
PLAIN = frozenset({"u"})
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    7,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    10**30,
    1.5,
    -0.0,
    1e300,
    0.1 + 0.2,
    float("inf"),
    float("nan"),
    "",
    "text",
    "größer 日本",
    "\ud83d\ude00",
    "\udc00",
    "a\nb",
    "\0",
    "1984",
    "true",
    "2020-01-01",
    [],
    [1, "a"],
    {},
    {"a": {"b": []}},
]
ODD = [
    None,
    b"",
    b" ",
    b"{}",
    b"{}{}",
    b"[]",
    b"7",
    b"null",
    b'{"t": "x"',
    b'"t": 1}',
    b'{"t": "\xff"}',
    b'{"t": "x", "t": "y"}',
    b'{"n": 1.0}',
    b'{"n": 1e2}',
    b'{"n": -0}',
    b'{"x": 1e400}',
    b'{"x": Infinity}',
    b'{"w": 01}',
    b'{"t": "\\ud800"}',
    b'{"t": "a\nb"}',
    b'\xef\xbb\xbf{"t": "x"}',
    '{"t": "x"}'.encode("utf-16"),
    b'{"t": "x"} // y',
    b"{'t': 1}",
    b'{"t": "\\u0000"}',
    b'{"a.b": 1, "": 2}',
    b'{"t":',
    b'"x"}',
    b'{"zz": [[[{"q": 1}]]], "n": 3}',
]


def rows(documents: list[bytes | None]) -> list[Any]:
    found = read_objects(documents, WANTED, PLAIN)
    columns = [repr(value) for name in WANTED.names for value in [found.columns[name].to_pylist()]]
    for name in WANTED.names:
        assert found.columns[name].type == WANTED.field(name).type
        found.columns[name].validate(full=True)
    return [*columns, found.failures]


def document(rng: random.Random) -> bytes | None:
    if rng.random() < 0.02:
        return rng.choice(ODD)
    names = rng.sample([*WANTED.names, "other", "a.b"], rng.randrange(7))
    if rng.random() < 0.7:  # what fits
        good: dict[str, Any] = {"t": "x", "n": 5, "w": 3, "x": 0.25, "b": True, "u": "é", "other": [1], "a.b": {}}
        return json.dumps({name: rng.choice([good[name], None]) for name in names}, indent=rng.choice([None, 4])).encode()
    return json.dumps({name: rng.choice(VALUES) for name in names}, ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def test_both_ways_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    quick = 0
    for n in range(1500):
        documents = [document(rng) for _ in range(rng.randrange(1, 5))]
        if n < len(ODD):
            documents = [b'{"t": "x"}', ODD[n], b'{"n": 1}']
        quick += json_batches._by_arrow(documents, WANTED) is not None
        found = rows(documents)
        with monkeypatch.context() as patch:
            patch.setattr(json_batches, "_by_arrow", lambda *_: None)
            assert rows(documents) == found, documents
    assert 300 < quick < 1400


def test_nothing_is_asked_for() -> None:
    found = read_objects([b"{}", b"{nope", None], pa.schema([]), PLAIN)
    assert found.columns == {}
    assert [failure and failure.value for failure in found.failures] == [None, "unreadable_row", None]
