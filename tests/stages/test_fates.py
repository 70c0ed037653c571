import pytest

from pairsift.stages.fates import Failure, Status

# Scripts of users read these words: they do not change.
WORDS_OF_IMG2DATASET = {"success", "failed_to_download", "failed_to_resize"}


def test_statuses_are_a_closed_set() -> None:
    others = {"failed_to_read", "failed_to_compute", "rejected", "duplicate", "removed"}
    assert {status.value for status in Status} == WORDS_OF_IMG2DATASET | others


@pytest.mark.parametrize("failure", Failure)
def test_every_code_has_a_meaning(failure: Failure) -> None:
    assert failure.status in set(Status) - {Status.SUCCESS, Status.REJECTED, Status.DUPLICATE}
    assert isinstance(failure.transient, bool)
    assert failure.text
    assert "\n" not in failure.text
    assert failure.value == failure.name.lower()
    assert Failure(failure.value) is failure


def test_no_two_codes_mean_the_same() -> None:
    assert len({failure.text for failure in Failure}) == len(Failure)


def test_what_is_worth_asking_again() -> None:
    again = {failure for failure in Failure if failure.transient}
    servers = {Failure.TIMEOUT, Failure.NO_ANSWER, Failure.HTTP_429, Failure.HTTP_503, Failure.INCOMPLETE_BODY}
    assert servers <= again
    assert not again & {Failure.HTTP_404, Failure.HTTP_410, Failure.NOT_AN_IMAGE, Failure.INVALID_URL, Failure.PROCESS_DIED}
    others = again - {Failure.DEVICE_LOST}
    assert all(failure.status is Status.FAILED_TO_DOWNLOAD for failure in others), "else only servers change their minds"
