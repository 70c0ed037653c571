"""What an answer's headers say of the use that may be made of its body: looked at before the body is read.

- X-Robots-Tag with img2dataset's directives, for everybody or for our own product name. Repeated headers may have been
  joined with commas on their way, so a name holds for the directives that follow it, up to the next name.
- TDMRep's `tdm-reservation: 1` (W3C Community Group report of 10 May 2024, section on HTTP headers).
- AIPREF's Content-Usage (draft-ietf-aipref-attach-05, with the vocabulary of draft-ietf-aipref-vocab-08 and, where sites have
  not followed yet, of its predecessors): a Structured Fields dictionary (RFC 9651) of tokens y and n. One that cannot be
  parsed says nothing, as the drafts want it.
"""

import re
from collections.abc import Iterable, Sequence

from multidict import CIMultiDictProxy

from pairsift.stages.download.errors import FetchError
from pairsift.stages.fates import Failure

# X-Robots-Tag directives with a value after their colon: they are no product's name.
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_OF_A_DATE = re.compile(r"\s*\d")  # "unavailable_after: Wed, 03 Dec 2025 13:00:00 GMT", behind its comma

# What a corpus of pairs is for. The older drafts' categories that contain it count where it is not named itself.
_TRAINING = ("train-ai", "train-genai", "ai", "genai")
_WIDER = ("tdm", "all", "bots")

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE_ITEM = (
    r"(?:-?[0-9]{1,15}(?:\.[0-9]{1,3})?"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*"'
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
    r"|:[A-Za-z0-9+/=]*:"
    r"|\?[01]"
    r"|@-?[0-9]{1,15})"
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE_ITEM})?)*"
_INNER_LIST = rf"\( *(?:{_BARE_ITEM}{_PARAMETERS}(?: +{_BARE_ITEM}{_PARAMETERS})* *)?\)"
_MEMBER = re.compile(rf"({_KEY})(?:=(?:({_BARE_ITEM})|{_INNER_LIST}))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


class Consent:
    """Which of the three are looked at, and in whose name."""

    def __init__(self, agents: Iterable[str], directives: Iterable[str], *, tdm: bool, content_usage: bool) -> None:
        """`agents`: our product names. `directives`: of X-Robots-Tag, those that forbid the use; none: it is not looked at."""
        self._agents = frozenset(agent.strip().lower() for agent in agents)
        self._directives = frozenset(directive.strip().lower() for directive in directives)
        if "noindex" in self._directives:
            self._directives |= {"none"}  # short for noindex, nofollow
        self._tdm = tdm
        self._content_usage = content_usage

    def check(self, headers: CIMultiDictProxy[str]) -> None:
        """Raises FetchError: X_ROBOTS_TAG, TDM_RESERVATION or CONTENT_USAGE, the first that holds."""
        if self._directives and "X-Robots-Tag" in headers:
            found = forbidding(headers.getall("X-Robots-Tag"), self._agents, self._directives)
            if found:
                raise FetchError(Failure.X_ROBOTS_TAG, found)
        if self._tdm and headers.get("TDM-Reservation", "").strip() == "1":
            raise FetchError(Failure.TDM_RESERVATION, f"tdm-policy: {headers.get('TDM-Policy', 'none')[:200]}")
        if self._content_usage and "Content-Usage" in headers:
            value = ", ".join(headers.getall("Content-Usage"))
            if training_refused(value):
                raise FetchError(Failure.CONTENT_USAGE, value[:200])


def forbidding(values: Sequence[str], agents: frozenset[str], directives: frozenset[str]) -> str | None:
    """The first directive of X-Robots-Tag that is one of `directives`, and is said to everybody or to one of `agents`."""
    for value in values:
        to_us = True
        for item in value.lower().split(","):
            name, colon, rest = item.partition(":")
            if colon and name.strip() not in _VALUED and not _OF_A_DATE.match(name):
                to_us = name.strip() in (*agents, "*")
                item = rest  # noqa: PLW2901 - what the name was put before
            if to_us and item.strip() in directives:
                return item.strip()
    return None


def training_refused(value: str) -> bool:
    """Whether a Content-Usage dictionary says `n` to training: to any category of it that is named, or, where none is, to one
    that contains it."""
    stated = usage(value)
    named = [stated[key] for key in _TRAINING if key in stated] or [stated[key] for key in _WIDER if key in stated]
    return "n" in named


def usage(value: str) -> dict[str, str]:
    """The members of a Structured Fields dictionary that are the tokens y or n; of a repeated key the last counts. Empty
    where the dictionary is not valid."""
    stated: dict[str, str] = {}
    value = value.strip(" ")
    at = 0
    while at < len(value):
        member = _MEMBER.match(value, at)
        if member is None:
            return {}
        stated[member[1]] = member[2] or ""
        at = member.end()
        if at < len(value):
            comma = _COMMA.match(value, at)
            if comma is None or comma.end() == len(value):
                return {}
            at = comma.end()
    return {key: token for key, token in stated.items() if token in ("y", "n")}
