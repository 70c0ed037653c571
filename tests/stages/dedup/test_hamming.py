from typing import Any

import numpy as np
import pytest

from pairsift.stages.dedup import hamming
from pairsift.stages.dedup.hamming import band, bands, distances, keys, near_pairs, pairs_of_band


def found(hashes: Any, distance: int) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    for left, right in near_pairs(hashes, distance):
        assert len(left) == len(right)
        pairs |= {(min(pair), max(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    return pairs


def brute(hashes: Any, distance: int) -> set[tuple[int, int]]:
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(np.int32)
    far = bits @ (1 - bits).T + (1 - bits) @ bits.T
    return {(i, j) for i, j in np.argwhere(far <= distance).tolist() if i < j}


def near_hashes(rows: int, words: int, most: int, seed: int = 0) -> Any:
    """Random hashes, and for each some others that differ from it in 1 to `most` bits, wherever these lie."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, (rows // 4, words), dtype=np.uint64)
    all_bits = [hashes]
    for _ in range(3):
        bits = np.unpackbits(hashes.view(np.uint8), axis=1)
        for row in bits:
            row[rng.choice(64 * words, rng.integers(1, most + 1), replace=False)] ^= 1
        all_bits.append(np.packbits(bits, axis=1).view(np.uint64))
    return np.concatenate(all_bits)


@pytest.mark.parametrize("bands_used", [None, 4, 8])
@pytest.mark.parametrize("distance", [0, 1, 3, 8, 12])
def test_64_bits_equal_brute_force(distance: int, bands_used: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if bands_used:
        monkeypatch.setattr(hamming, "bands", lambda *_: bands_used)
    hashes = near_hashes(600, 1, 16)
    pairs = found(hashes, distance)
    assert pairs == brute(hashes, distance)
    assert pairs or distance == 0


@pytest.mark.parametrize(("bands_used", "distance"), [(None, 31), (12, 11), (12, 31), (16, 15), (16, 16), (16, 40), (32, 40)])
def test_256_bits_equal_brute_force(bands_used: int | None, distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if bands_used:
        monkeypatch.setattr(hamming, "bands", lambda *_: bands_used)
    hashes = near_hashes(400, 4, 48, seed=1)
    pairs = found(hashes, distance)
    assert pairs == brute(hashes, distance)
    assert pairs


@pytest.mark.parametrize("distance", [31, 32, 33])
def test_the_worst_differences_for_bands_are_found(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bits dealt out evenly, or heaped in few bands, the last ones among them."""
    monkeypatch.setattr(hamming, "bands", lambda *_: 16)
    one_more, in_two, spread = ([0] * 256 for _ in range(3))
    for n in range(distance):
        spread[n] = 1  # band n % 16
        one_more[16 * (n % 11) + n // 11] = 1  # bands 0 to 2
        in_two[15 + 16 * (n % 16) - n // 16] = 1  # from the last band on, which has the smaller radius
    rows = [[0] * 256, spread, one_more, in_two, spread[:255] + [1]]
    assert [sum(row) for row in rows] == [0, distance, distance, distance, distance + 1]
    hashes = np.packbits(np.array(rows, np.uint8), axis=1, bitorder="little").view(np.uint64)
    assert found(hashes, distance) == brute(hashes, distance) >= {(0, 1), (0, 2), (0, 3)}


def test_a_hot_band_is_compared_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "_CHUNK", 100)
    monkeypatch.setattr(hamming, "bands", lambda *_: 4)
    hashes = near_hashes(200, 1, 4, seed=2)
    hashes &= ~np.uint64(0x1111_1111_1111_1111)  # one of four bands is the same in all
    distinct = np.unique(hashes, axis=0)
    assert found(distinct, 6) == brute(distinct, 6)


def test_none_and_one() -> None:
    for rows in (0, 1):
        assert found(np.zeros((rows, 4), np.uint64), 31) == set()


def test_it_can_be_stopped() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(near_pairs(near_hashes(40, 1, 4), 4, stop))


def test_all_with_all_only_where_that_is_quicker() -> None:
    assert bands(10, 64, 8) == 1
    assert bands(1_000_000, 256, 31) > 8
    assert bands(100_000, 256, 200) == 1, "so far apart that bands say nothing"


def test_distances() -> None:
    left, right = np.array([[0, 1], [7, 0]], np.uint64), np.array([[0, 1], [0, 2**63]], np.uint64)
    assert distances(left, right).tolist() == [0, 4]


def test_pairs_between_two_sets() -> None:
    """A band's pairs are those of both sets together that have one in each."""
    rng = np.random.default_rng(5)
    base = rng.integers(0, 2**63, (60, 1), dtype=np.uint64)
    left, right = base[:40] ^ (np.uint64(1) << rng.integers(0, 64, (40, 1), dtype=np.uint64)), base[20:]
    places, radius = band(1, 3, 64, 5)
    within = keys(left, places)[:, None] ^ keys(right, places)[None, :]
    expected = (np.bitwise_count(within) <= radius) & (np.bitwise_count(left ^ right.T) <= 5)
    found = [pair for one, other in pairs_of_band(left, right, places, radius, 5) for pair in zip(one, other, strict=True)]
    assert len(found) == len(set(found)), "each once"
    assert set(found) == set(zip(*np.nonzero(expected), strict=True))
    assert len(found) >= 15
