import pickle

import pytest
from pydantic import ValidationError

from pairsift.stages.base import ConfigError
from pairsift.stages.filter.where import Where


def test_a_threshold_names_its_column_and_its_score() -> None:
    rule = Where(use="filter.where", keep="clip_similarity >= 0.28")
    rule.check()
    assert rule.reads() == ("clip_similarity",)
    assert rule.predicate() == "clip_similarity >= 0.28"
    assert rule.score() == "clip_similarity"
    assert rule.label() == "clip_similarity >= 0.28"


def test_a_score_may_be_an_expression() -> None:
    assert Where(keep="least(original_width, original_height) >= 200").score() == "least(original_width, original_height)"


def test_no_score_where_there_is_no_single_comparison() -> None:
    assert Where(keep="a > 1 AND b > 2").score() is None
    assert Where(keep="caption IS NOT NULL").score() is None


def test_a_name_is_the_label() -> None:
    assert Where(keep="a > 1", name="big enough").label() == "big enough"


def test_what_is_not_a_row_predicate_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"random\(\)"):
        Where(keep="random() < 0.5").check()
    with pytest.raises(ConfigError, match="not valid SQL"):
        Where(keep="clip_similarity >=").check()


def test_keep_is_needed_and_nothing_else_is_known() -> None:
    with pytest.raises(ValidationError, match="keep"):
        Where()  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="drop"):
        Where(keep="a > 1", drop=True)  # type: ignore[call-arg]


def test_it_can_be_sent_to_a_worker() -> None:
    rule = Where(keep="a > 1")
    assert pickle.loads(pickle.dumps(rule)) == rule
