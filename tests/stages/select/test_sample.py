from typing import Any

import pytest
from pydantic import ValidationError

from pairsift.stages.base import ConfigError
from pairsift.stages.select.sample import Sample

UIDS = [f"{n:032x}" for n in range(5000)]


def test_a_fraction_is_that_of_the_rows_and_of_no_order(gone: Any) -> None:
    kept = set(UIDS) - {UIDS[n] for n in gone(Sample(fraction=0.3), uid=UIDS)}
    assert 0.27 < len(kept) / len(UIDS) < 0.33
    backwards = set(UIDS) - {UIDS[::-1][n] for n in gone(Sample(fraction=0.3), uid=UIDS[::-1])}
    assert backwards == kept
    less = set(UIDS) - {UIDS[n] for n in gone(Sample(fraction=0.1), uid=UIDS)}
    assert less < kept
    other = set(UIDS) - {UIDS[n] for n in gone(Sample(fraction=0.3, seed=1), uid=UIDS)}
    assert 0.05 * len(UIDS) < len(kept & other) < 0.13 * len(UIDS), "two draws are independent"
    assert gone(Sample(fraction=1), uid=UIDS) == {}


def test_a_count_is_exact(gone: Any) -> None:
    assert len(gone(Sample(count=1234), uid=UIDS)) == 5000 - 1234
    assert gone(Sample(count=5000), uid=UIDS) == gone(Sample(count=9999), uid=UIDS) == {}
    small, large = (set(range(5000)) - set(gone(Sample(count=count), uid=UIDS)) for count in (10, 100))
    assert small < large


@pytest.mark.parametrize("how", [{"fraction": 0.3}, {"count": 300}])
def test_new_input_takes_nothing_out(gone: Any, how: dict[str, Any]) -> None:
    first = gone(Sample(**how), uid=UIDS[:1000])
    both = gone(Sample(**how), uid=UIDS, generation=[0] * 1000 + [1] * 4000)
    assert {n for n in both if n < 1000} == set(first)
    if "count" in how:
        few = gone(Sample(count=1500), uid=UIDS, generation=[0] * 1000 + [1] * 4000)
        assert len(few) == 3500
        assert min(few) >= 1000, "later rows fill up what is missing"


def test_rows_of_one_domain_stay_together(gone: Any) -> None:
    domains = [f"{n % 50}.example" for n in range(1000)]
    away = gone(Sample(fraction=0.5, by=["domain"]), domain=domains)
    assert 5 < len({domains[n] for n in away}) < 45
    assert not {domains[n] for n in away} & {domains[n] for n in range(1000) if n not in away}
    assert Sample(fraction=0.5, by=["domain"]).key() == ('"domain"',)


def test_one_of_fraction_and_count() -> None:
    for wrong in (Sample(), Sample(fraction=0.1, count=1)):
        with pytest.raises(ConfigError, match="either fraction"):
            wrong.check()
    with pytest.raises(ValidationError):
        Sample(fraction=1.5)
    assert Sample(fraction=0.1).label() == "sample of 0.1 by uid"
    assert Sample(count=5, name="few").label() == "few"
