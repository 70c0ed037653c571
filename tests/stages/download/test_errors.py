import pytest

from pairsift.stages.download.errors import TIMEOUTS, FetchError
from pairsift.stages.fates import Failure


def test_what_is_worth_another_attempt() -> None:
    assert FetchError(Failure.CONNECTION_LOST).again
    assert not FetchError(Failure.HTTP_404).again
    assert not FetchError(Failure.DNS_ERROR, again=False).again


@pytest.mark.parametrize("failure", TIMEOUTS)
def test_a_deadline_that_ran_out_is_for_another_run(failure: Failure) -> None:
    assert failure.transient
    assert not FetchError(failure).again
