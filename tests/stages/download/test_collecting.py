"""The process gets back the collector that it had."""

import gc
import weakref

import pytest

from pairsift.stages.download.collecting import rare_collections


class Cycle:
    """Garbage that reference counting does not find."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_found_later_and_are_found() -> None:
    gc.collect()
    with rare_collections():
        lost = weakref.ref(Cycle())
        kept: list[list[int]] = [[] for _ in range(3_000)]  # of the objects that count towards the next look
        assert lost() is not None
        kept += [[] for _ in range(30_000)]
        assert lost() is None
    assert len(kept) == 33_000


def test_the_collector_is_put_back_whatever_happens() -> None:
    before, within = gc.get_threshold(), 0

    def fail() -> None:
        nonlocal within
        with rare_collections():
            within = gc.get_threshold()[0]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert within > before[0]
    assert gc.get_threshold() == before
