import asyncio

import pytest
from yarl import URL

from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.proxy import TargetCheck
from pairsift.stages.fates import Failure


def verdict(url: str, allow_private: bool | list[str] = False) -> Failure | None:
    async def work() -> Failure | None:
        check = TargetCheck(allow_private)
        for _ in range(2):  # the second time from memory, where there is one
            try:
                await check.check(URL(url), 5)
            except FetchError as error:
                return error.failure
        return None

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("url", "failure"),
    [
        ("http://127.0.0.1/", Failure.PRIVATE_ADDRESS),
        ("http://localhost:8080/", Failure.PRIVATE_ADDRESS),
        ("http://[::1]/", Failure.PRIVATE_ADDRESS),
        ("http://169.254.169.254/latest/", Failure.PRIVATE_ADDRESS),
        ("http://0x7f000001/", Failure.PRIVATE_ADDRESS),
        ("http://no-such-host.invalid/", Failure.DNS_ERROR),
        ("http://8.8.8.8/", None),
    ],
)
def test_targets_are_looked_at(url: str, failure: Failure | None) -> None:
    assert verdict(url) is failure


def test_what_is_allowed_is_not_looked_up() -> None:
    assert verdict("http://10.1.2.3/", ["10.0.0.0/8"]) is None
    assert verdict("http://no-such-host.invalid/", allow_private=True) is None
