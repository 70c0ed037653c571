"""Keeps the model busy: while it runs on one batch, another thread prepares the next, of this unit or of the one after.

What is in a batch depends on the rows of the call and on nothing else, as sums depend on it: images in their order; captions
without repeats, sorted by their length, so that a batch holds next to no padding.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsift.stages.embed.encoder import Encoder, Prepared, Tokens

_AHEAD = 2  # batches that wait for the model, prepared: some 20 MB at 224 pixels and 64 images
_NOTHING: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

Step = Callable[[], None]


class Work:
    """One call of the stage: `steps` prepares, what it gives runs the model, and then the vectors are there."""

    def __init__(self, images: pa.ChunkedArray | None, captions: Sequence[str | None] | None, dim: int) -> None:
        """One of the two may be None: that side is not wanted."""
        rows = len(captions) if images is None and captions is not None else len(images or ())
        self._images, self._captions = images, captions
        self.readable = np.ones(rows, dtype=np.bool_)  # has an image that can be decoded, or none is wanted
        self.said = np.zeros(rows, dtype=np.bool_)  # has a text vector
        self.image_vectors = np.zeros((rows, dim), dtype=np.float32)
        self.text_vectors = np.zeros((rows, dim), dtype=np.float32)
        self.future: Future[Work] = Future()

    def steps(self, encoder: Encoder, batch_size: int, pool: ThreadPoolExecutor) -> Iterator[Step]:
        """Images first: of a row whose image cannot be read the caption is not embedded either."""
        if self._images is not None:
            yield from self._image_steps(self._images, encoder, batch_size, pool)
        if self._captions is not None:
            yield from self._text_steps(self._captions, encoder, batch_size)

    def _image_steps(
        self, images: pa.ChunkedArray, encoder: Encoder, batch_size: int, pool: ThreadPoolExecutor
    ) -> Iterator[Step]:
        def prepare(scalar: pa.Scalar) -> Prepared | None:
            image = encoder.decode(scalar.as_buffer())
            return None if image is None else encoder.prepare(image)

        rows: list[int] = []
        waiting: list[Prepared] = []
        for start in range(0, len(images), batch_size):
            for row, prepared in enumerate(pool.map(prepare, images.slice(start, batch_size)), start):
                if prepared is None:
                    self.readable[row] = False
                else:
                    rows.append(row)
                    waiting.append(prepared)
            while waiting and (len(waiting) >= batch_size or start + batch_size >= len(images)):
                yield self._image_step(encoder, rows[:batch_size], waiting[:batch_size])
                rows, waiting = rows[batch_size:], waiting[batch_size:]

    def _image_step(self, encoder: Encoder, rows: list[int], prepared: list[Prepared]) -> Step:
        batch = encoder.stack(prepared)

        def step() -> None:
            self.image_vectors[rows] = encoder.encode_images(batch)

        return step

    def _text_steps(self, captions: Sequence[str | None], encoder: Encoder, batch_size: int) -> Iterator[Step]:
        texts = [caption.strip() if caption and ok else "" for caption, ok in zip(captions, self.readable, strict=True)]
        self.said = np.array([bool(text) for text in texts], dtype=np.bool_)
        distinct = list(dict.fromkeys(text for text in texts if text))
        if not distinct:
            return
        tokens = dict(zip(distinct, encoder.tokenize(distinct), strict=True))
        rows_of: dict[Tokens, list[int]] = {}
        for row in np.flatnonzero(self.said).tolist():
            rows_of.setdefault(tokens[texts[row]], []).append(row)
        for batch in text_batches(rows_of, batch_size):
            yield self._text_step(encoder, batch, [rows_of[one] for one in batch])

    def _text_step(self, encoder: Encoder, batch: list[Tokens], rows: list[list[int]]) -> Step:
        def step() -> None:
            vectors = encoder.encode_texts(batch)
            repeats = [len(those) for those in rows]
            self.text_vectors[np.concatenate(rows)] = np.repeat(vectors, repeats, axis=0)

        return step


def text_batches(tokens: Iterator[Tokens] | dict[Tokens, Any], batch_size: int) -> list[list[Tokens]]:
    """Distinct texts in batches of `batch_size`, sorted by length and then by their tokens: a pure function of the set."""
    ordered = sorted(tokens, key=lambda one: (len(one), one))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


class Feed:
    """Two threads and a queue between them. `run` may be called for several units at once; they are served in turn."""

    def __init__(self, encoder: Encoder, batch_size: int, model_threads: int, prepare_threads: int) -> None:
        self._encoder, self._batch_size = encoder, batch_size
        self._calls: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._ready: queue.Queue[tuple[Work, Step | BaseException | None] | None] = queue.Queue(_AHEAD)
        self._closing = False
        # Whoever touches torch first in a thread gets as many threads of its own as were asked for last: so this order.
        self._pool = ThreadPoolExecutor(prepare_threads, "embed-prepare", initializer=_use_threads, initargs=(1,))
        for done in [self._pool.submit(_use_threads, 1) for _ in range(prepare_threads)]:
            done.result()
        self._preparing = threading.Thread(target=self._prepare, name="embed-feed", daemon=True)
        self._running = threading.Thread(target=self._run, args=(model_threads,), name="embed-model", daemon=True)
        self._preparing.start()
        self._running.start()

    async def run(self, work: Work) -> Work:
        """The work with its vectors filled in. Raises what the model or the preparation raised."""
        self._calls.put(work)
        return await asyncio.wrap_future(work.future)

    def close(self) -> None:
        """Ends both threads after the batch that the model is at; what was asked for and is not done is cancelled."""
        self._closing = True
        self._calls.put(None)
        self._preparing.join()
        self._running.join()
        self._pool.shutdown()

    def _prepare(self) -> None:
        while (work := self._calls.get()) is not None:
            if self._closing or not work.future.set_running_or_notify_cancel():
                work.future.cancel()
                continue
            end: BaseException | None = None
            try:
                for step in work.steps(self._encoder, self._batch_size, self._pool):
                    self._ready.put((work, step))
                    if self._closing or work.future.done():
                        break
            except BaseException as error:  # noqa: BLE001 - raised where the work was asked for
                end = error
            self._ready.put((work, end))
        self._ready.put(None)

    def _run(self, threads: int) -> None:
        _use_threads(threads)
        while (item := self._ready.get()) is not None:
            work, step = item
            if work.future.done():
                continue
            if self._closing:
                step = RuntimeError("embed was closed before it had finished")
            if isinstance(step, BaseException):
                work.future.set_exception(step)
            elif step is None:
                work.future.set_result(work)
            else:
                self._call(work, step)

    @staticmethod
    def _call(work: Work, step: Step) -> None:
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - raised where the work was asked for
            work.future.set_exception(error)


def _use_threads(threads: int) -> None:
    """torch's threads for what this thread calls. Ray's workers would have one, whatever the stage was given."""
    import torch

    torch.set_num_threads(threads)
    torch.get_num_threads()  # settles it for this thread, whatever others ask for later
