"""Compact files made while a run goes on: else the next cut would have to read a file for each unit.

A file of a layer costs 0.7 ms to read, whatever is in it: twelve minutes for a million units.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pairsift.pipeline.ledger.blocks import Blocks
from pairsift.pipeline.ledger.layers import Layer


class Compactor:
    """Has a block's files of these layers compacted, in a thread of its own, when the last of the block's units is through."""

    def __init__(self, blocks: Blocks, layers: Sequence[Layer], units: Iterable[int]) -> None:
        """`units`: those that will be worked on."""
        self._blocks, self._layers = blocks, layers
        self._left = Counter(map(blocks.block_of, units))
        self._thread = ThreadPoolExecutor(1, "compactor")

    def __enter__(self) -> "Compactor":
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for the block at hand; those behind it are left to the next cut."""
        self._thread.shutdown(cancel_futures=True)

    def done(self, unit: int) -> None:
        """A unit is through: its files are there."""
        block = self._blocks.block_of(unit)
        self._left[block] -= 1
        if not self._left[block]:
            self._thread.submit(self._compact, block)

    def _compact(self, block: int) -> None:
        for layer in self._layers:
            self._blocks.compact(layer, block)
