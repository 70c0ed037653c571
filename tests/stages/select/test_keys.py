import hashlib

import duckdb
import pytest

from pairsift.stages.select.keys import uniform
from pairsift.stages.sql import quoted


def test_a_quote_in_a_name_is_doubled() -> None:
    assert quoted('a"b') == '"a""b"'


@pytest.mark.parametrize("seed", [0, 17])
def test_uniform_is_the_start_of_an_md5(seed: int) -> None:
    values = [(f"uid {n}", n % 7) for n in range(1000)]
    with duckdb.connect() as con:
        con.execute("CREATE TABLE rows (place INT, uid VARCHAR, entry INT)")
        con.executemany("INSERT INTO rows VALUES (?, ?, ?)", [(n, *value) for n, value in enumerate(values)])
        found = [x for (x,) in con.execute(f"SELECT {uniform(seed, ['uid', 'entry'])} FROM rows ORDER BY place").fetchall()]
    texts = [f"{seed}/{uid}/{entry}" for uid, entry in values]
    assert found == [int(hashlib.md5(text.encode()).hexdigest()[:13], 16) / 2**52 for text in texts]
    assert 0 <= min(found) < 0.01
    assert 0.99 < max(found) < 1
