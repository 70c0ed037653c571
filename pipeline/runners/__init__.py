"""Who does the work: `local` in this process, `ray` on Ray Data. Same plan, same layers, same bytes."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, cast

from pairsift.pipeline.control.stopping import Stop
from pairsift.pipeline.workers.reports import UnitReport
from pairsift.pipeline.workers.span import Span
from pairsift.stages.base import ConfigError

T = TypeVar("T")
R = TypeVar("R")
UNITS_IN_FLIGHT = 8  # per worker: while the last rows of one unit wait for servers that never answer, others go on


class Runner(Protocol):
    """What both runners offer. Both raise Interrupted soon after a stop was asked for; what has ended until then is given."""

    def process(self, span: Span, units: Sequence[int], stop: Stop) -> Iterator[UnitReport]:
        """Take the units through the span, in any order; one report for each."""

    def map(self, function: Callable[[T], R], items: Sequence[T], stop: Stop) -> Iterator[R]:
        """`function` of each item, in any order, as results come."""


def check_runner(name: str) -> None:
    """Raises ConfigError for a name that no runner has."""
    if name not in ("ray", "local"):
        raise ConfigError(f"runner {name!r}: there are ray and local")


def open_runner(name: str, address: str | None = None) -> AbstractContextManager[Runner]:
    """The runner called "ray" or "local". Only the one that is asked for is imported."""
    check_runner(name)
    module = importlib.import_module(f"{__name__}.{name}")
    return cast("AbstractContextManager[Runner]", module.open_runner(address))
