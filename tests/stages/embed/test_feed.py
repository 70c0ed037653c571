"""The two threads between the stage and the model, with an encoder that only counts."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
import pyarrow as pa
import pytest
import torch

from pairsift.stages.embed import pixels
from pairsift.stages.embed.encoder import Floats, Prepared, Tokens
from pairsift.stages.embed.feed import Feed, Work, text_batches


class Counter:
    """An image's vector is its first pixel, a text's the sum of its tokens, which are its characters."""

    dim = 2

    def __init__(self, seconds: float = 0, fails_at: int | None = None) -> None:
        self.batches: list[int] = []
        self.texts: list[list[Tokens]] = []
        self.prepared, self.threads = 0, set[int]()
        self.ahead = 0
        self._seconds, self._fails_at = seconds, fails_at

    def decode(self, encoded: pa.Buffer | None) -> np.ndarray | None:
        return pixels.decode(encoded)

    def prepare(self, image: np.ndarray) -> Prepared:
        self.prepared += 1
        return image[0, 0]

    def stack(self, prepared: Sequence[Prepared]) -> Floats:
        return np.stack(prepared).astype(np.float32)

    def encode_images(self, batch: Floats) -> Floats:
        if len(self.batches) == self._fails_at:
            raise ZeroDivisionError("the model")
        time.sleep(self._seconds)
        self.batches.append(len(batch))
        self.ahead = max(self.ahead, self.prepared - sum(self.batches))
        self.threads = {*self.threads, torch.get_num_threads()}
        return batch[:, :2]

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [tuple(text.encode()) for text in texts]

    def encode_texts(self, tokens: Sequence[Tokens]) -> Floats:
        self.texts.append(list(tokens))
        return np.array([[sum(one), len(one)] for one in tokens], dtype=np.float32)


@contextmanager
def feeding(encoder: Counter, batch_size: int = 4) -> Iterator[Feed]:
    with closing(Feed(encoder, batch_size, model_threads=2, prepare_threads=1)) as feed:
        yield feed


def images(count: int, damaged: Sequence[int] = ()) -> pa.ChunkedArray:
    import cv2

    files = [cv2.imencode(".png", np.full((2, 2, 3), number, np.uint8))[1].tobytes() for number in range(count)]
    return pa.chunked_array([[b"damaged" if row in damaged else file for row, file in enumerate(files)]], pa.large_binary())


def run(encoder: Counter, *works: Work) -> list[Work]:
    async def drive() -> list[Work]:
        with feeding(encoder) as feed:
            return await asyncio.gather(*map(feed.run, works))

    return asyncio.run(drive())


def test_batches_are_full_whatever_cannot_be_read() -> None:
    encoder = Counter()
    (work,) = run(encoder, Work(images(11, damaged=[0, 5]), None, 2))
    assert encoder.batches == [4, 4, 1]
    assert work.readable.tolist() == [row not in (0, 5) for row in range(11)]
    assert work.image_vectors[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10]


def test_captions_are_embedded_once_shortest_first() -> None:
    captions = ["ccc", "a", None, " ccc ", "bb", " ", "a", "dddd", "e", "ff"]
    encoder = Counter()
    (work,) = run(encoder, Work(None, captions, 2))
    assert encoder.texts == [[(97,), (101,), (98, 98), (102, 102)], [(99,) * 3, (100,) * 4]]
    assert work.said.tolist() == [bool(caption and caption.strip()) for caption in captions]
    assert work.text_vectors[:, 1].tolist() == [3, 1, 0, 3, 2, 0, 1, 4, 1, 2]
    assert run(Counter(), Work(None, captions[::-1], 2))[0].text_vectors[::-1].tolist() == work.text_vectors.tolist()


def test_of_a_row_without_an_image_the_caption_is_not_embedded() -> None:
    (work,) = run(Counter(), Work(images(2, damaged=[1]), ["a", "b"], 2))
    assert work.said.tolist() == [True, False]


def test_batches_depend_on_the_set_of_texts_alone() -> None:
    texts = [(n % 7,) * (n % 5 + 1) for n in range(60)]
    distinct = dict.fromkeys(texts)
    assert text_batches(distinct, 8) == text_batches(dict.fromkeys(reversed(texts)), 8)
    assert sorted(one for batch in text_batches(distinct, 8) for one in batch) == sorted(distinct)


def test_units_overlap_and_little_is_held() -> None:
    encoder = Counter(seconds=0.02)
    works = run(encoder, *(Work(images(16), None, 2) for _ in range(3)))
    assert all(work.image_vectors[:, 0].tolist() == list(range(16)) for work in works)
    assert 4 <= encoder.ahead <= 16  # two batches wait, one is being prepared, one may have been counted early
    assert encoder.threads == {2}
    assert threading.active_count() < 20


def test_what_the_model_raises_is_raised_where_it_was_asked_for_and_others_go_on() -> None:
    async def drive() -> list[object]:
        with feeding(Counter(fails_at=1)) as feed:
            asked = [feed.run(Work(images(rows), None, 2)) for rows in (12, 3)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second = asyncio.run(drive())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError | Work)  # it is the model that is at its second batch for good


def test_closing_ends_what_is_under_way() -> None:
    async def drive() -> list[object]:
        feed = Feed(Counter(seconds=0.05), 4, 1, 1)
        asked = [asyncio.ensure_future(feed.run(Work(images(80), None, 2))) for _ in range(4)]
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        await asyncio.to_thread(feed.close)
        assert time.perf_counter() - began < 2
        return list(await asyncio.gather(*asked, return_exceptions=True))

    results = asyncio.run(drive())
    assert all(isinstance(result, RuntimeError | asyncio.CancelledError) for result in results), results
    with pytest.raises(RuntimeError):
        raise next(result for result in results if isinstance(result, RuntimeError))
