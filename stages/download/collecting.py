"""How often Python looks for garbage in cycles while images are downloaded."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 20_000  # that have to be there before they are looked at; Python's own number is 700 or 2,000


@contextmanager
def rare_collections() -> Iterator[None]:
    """For the whole process, until the context ends.

    A worker has tens of thousands of objects at hand, of hundreds of downloads under way, and makes and drops a few hundred
    per image. All go by reference counting: a row leaves no cycle behind, neither with an image nor with a failure. To look
    for cycles as often as Python does by itself took a sixth of the network thread's time, and found nothing.
    """
    before = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
