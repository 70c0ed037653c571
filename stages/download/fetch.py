"""Fetch one URL: its body, or the reason why there is none.

Redirects are followed here, hop by hop, so that each hop's scheme and address are checked as the first one's are, and so
that whatever else has to be asked about a host before it is spoken to (`Visit.enter`) is asked about each.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from yarl import URL

from pairsift.stages.download.body import Limits, Visit, read_beginning, read_body
from pairsift.stages.download.client import Answer, Client, Progress
from pairsift.stages.download.deadline import Deadline, OutOfTimeError
from pairsift.stages.download.errors import FetchError
from pairsift.stages.download.urls import redirect_target
from pairsift.stages.fates import Failure

T = TypeVar("T")

_REDIRECTS = (301, 302, 303, 307, 308)


class Fetcher:
    """Fetches URLs by one client, each within the same limits."""

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._limits = limits

    async def fetch(self, url: URL, visit: Visit | None = None) -> bytes:
        """One attempt. The body is at least one byte. Raises FetchError; anything else is a program error.

        `visit` is asked before each hop and told what came of it; the time that it makes us wait is not the attempt's.
        """
        visit = visit or Visit()
        deadline = Deadline(self._limits.timeout)
        for _ in range(self._limits.max_redirects + 1):
            await visit.enter(url)
            progress = Progress()
            try:
                answer = await self._within(deadline, progress, self._hop(url, visit, deadline, progress))
            except FetchError as error:
                visit.leave(error)
                raise
            visit.leave()
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError(Failure.TOO_MANY_REDIRECTS, f"more than {self._limits.max_redirects}")

    async def _within(self, deadline: Deadline, progress: Progress, answer: Coroutine[Any, Any, T]) -> T:
        try:
            with deadline.running():
                return await answer
        except OutOfTimeError as error:
            failure = progress.failure
            raise FetchError(failure, f"{failure.text}, {self._limits.timeout:g} s") from error

    async def _hop(self, url: URL, visit: Visit, deadline: Deadline, progress: Progress) -> bytes | URL:
        """The body, or where it is to be had instead."""
        answer = await self._client.get(url, progress)
        try:
            progress.enter(Failure.TIMEOUT)
            if answer.head.status in _REDIRECTS:
                return _redirect_target(answer)
            return await read_body(answer, self._limits, visit, deadline)
        finally:
            self._client.release(answer)

    async def beginning(self, url: URL, max_bytes: int) -> tuple[int, bytes]:
        """Status and at most the first `max_bytes` of an answer, whatever its status, within the limits of an attempt.

        At most `max_redirects` redirects are followed; what the last answer says is returned then. Raises FetchError.
        """
        progress = Progress()
        deadline = Deadline(self._limits.timeout)
        return await self._within(deadline, progress, self._beginning(url, max_bytes, progress))

    async def _beginning(self, url: URL, max_bytes: int, progress: Progress) -> tuple[int, bytes]:
        for left in reversed(range(self._limits.max_redirects + 1)):
            answer = await self._client.get(url, progress)
            try:
                progress.enter(Failure.TIMEOUT)
                status = answer.head.status
                if status not in _REDIRECTS or not left:
                    return status, await read_beginning(answer, max_bytes) if 200 <= status < 300 else b""
                url = _redirect_target(answer)
            finally:
                self._client.release(answer)
        raise AssertionError("the last answer is returned")


def _redirect_target(answer: Answer) -> URL:
    location = answer.head.headers.get("Location")
    if location is None:
        raise FetchError(Failure.PROTOCOL_ERROR, f"{answer.head.status} without Location")
    return redirect_target(answer.url, location)
