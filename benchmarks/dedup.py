"""What duplicates cost, and which are found.

    python benchmarks/dedup.py edits DATA          # a folder with coco/images and fsa_color: recall by edit, false pairs
    python benchmarks/dedup.py pairs               # random hashes: seconds and memory by rows and distance
    python benchmarks/dedup.py semantic FILE       # JSON, [{vector: [...]}, ...]: brute force, and recall by number of clusters
    python benchmarks/dedup.py exact --rows 50000000   # dedup.exact in the cut: seconds, CPU, memory at most

Figures in docs/dedup.md are of two cores of a shared machine.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from edited_images import EDITS
from numpy.typing import NDArray

from pairsift.pipeline.cut import database
from pairsift.stages.base import Scratch
from pairsift.stages.dedup.exact import Exact
from pairsift.stages.dedup.hamming import bands, distances, near_pairs
from pairsift.stages.dedup.hashes import read_hashes
from pairsift.stages.dedup.kmeans import chance
from pairsift.stages.dedup.semantic import Semantic
from pairsift.stages.image.phash import ImagePhash

Hashes = NDArray[np.uint64]

_BLOCK = 1_000_000  # rows


def edits(data: str, files: int) -> None:
    """By edit, within each distance: the share of photos found again, and how many others their copies are near to. Then pairs
    of different photos within it."""
    paths = (
        sorted((Path(data) / "coco" / "images").glob("*.jpg"))[:files]
        + sorted((Path(data) / "fsa_color").rglob("*.jpg"))[:files]
    )
    photos = [cv2.imread(str(path)) for path in paths]
    for bits, within in ((256, (20, 31, 40, 50)), (64, (4, 6, 8, 10))):
        begun = time.process_time()
        originals = _hashes(bits, [path.read_bytes() for path in paths])
        rate = len(paths) / (time.process_time() - begun)
        known = np.array([text is not None for text in originals])
        base = read_hashes(pa.array([text for text in originals if text is not None]), "phash")
        print(f"\n{bits} bits, {len(base)} of {len(paths)} photos with a hash, {rate:.0f} a CPU second")
        print("| edit | " + " | ".join(f"<= {n} | others" for n in within) + " | median |")
        for name, edit in EDITS.items():
            edited = _edited(_hashes(bits, [edit(photo) for photo in photos]), base, known)
            far, others = distances(edited, base), _others(edited, base, within)
            shares = " | ".join(f"{(far <= n).mean():.3f} | {count}" for n, count in zip(within, others, strict=True))
            print(f"| {name} | {shares} | {np.median(far):.0f} |", flush=True)
        pairs = {
            n: len({tuple(sorted(pair)) for a, b in near_pairs(base, n) for pair in zip(a.tolist(), b.tolist(), strict=True)})
            for n in within
        }
        print(f"pairs of different files within: {pairs}, of {len(base) * (len(base) - 1) // 2}")
        closest = {
            tuple(sorted(pair)) for a, b in near_pairs(base, within[-1]) for pair in zip(a.tolist(), b.tolist(), strict=True)
        }
        named = [path for path, there in zip(paths, known, strict=True) if there]
        for a, b in sorted(closest, key=lambda pair: int(distances(base[[pair[0]]], base[[pair[1]]])[0]))[:20]:
            print("   ", int(distances(base[[a]], base[[b]])[0]), named[a].name, named[b].name)


def _hashes(bits: int, images: Sequence[bytes]) -> list[str | None]:
    with ImagePhash.model_validate({"bits": bits}).open() as transform:
        table: Any = transform(pa.table({"image": pa.array(images, pa.large_binary())}))
    found: list[str | None] = table["phash"].to_pylist()
    return found


def _edited(edited: list[str | None], base: Hashes, known: NDArray[np.bool_]) -> Hashes:
    """The hashes of copies whose originals have one; that of a copy without one is as far from an original as can be."""
    texts = [text for text, there in zip(edited, known, strict=True) if there]
    digits = base.shape[1] * 16
    inverse = "".join(f"{~word & (2**64 - 1):016x}" for word in base[0].tolist())
    assert len(inverse) == digits
    return read_hashes(pa.array([text or inverse for text in texts]), "phash")


def _others(edited: Hashes, base: Hashes, within: Sequence[int]) -> list[int]:
    """Pairs of a copy and an original that is not its own, within each distance."""
    found = np.zeros(len(within), np.int64)
    for place, one in enumerate(edited):
        far = np.bitwise_count(base ^ one).sum(axis=1, dtype=np.int64)
        far[place] = 1 << 20
        found += [(far <= n).sum() for n in within]
    return [int(count) for count in found]


def pairs() -> None:
    for bits, distance in ((256, 0), (256, 15), (256, 31), (256, 40), (64, 4), (64, 8)):
        for rows in (10_000, 100_000, 1_000_000):
            hashes = np.random.default_rng(0).integers(0, 2**64, (rows, bits // 64), dtype=np.uint64)
            begun = time.perf_counter()
            for _ in near_pairs(hashes, distance):
                pass
            seconds = time.perf_counter() - begun
            print(f"| {bits} | {distance} | {rows:,} | {bands(rows, bits, distance)} bands | {seconds:.1f} s |", flush=True)


def semantic(path: str, rows: int) -> None:
    """Rows that lie between real vectors, a fifth of them near to another one; how many go, and how many of those that stay
    would go if all were compared with all."""
    vectors = _between(np.array([row["vector"] for row in json.loads(Path(path).read_text(encoding="utf-8"))]), rows)
    print(f"{rows:,} vectors of {vectors.shape[1]} numbers, of {path}")
    print("| clusters | seconds | rows that go | that stay and should not |")
    for clusters in (1, 10, 30, 100, 141, 300, 1000):
        begun = time.perf_counter()
        gone = _found(Semantic(clusters=clusters, similarity=0.95), vectors)
        seconds = time.perf_counter() - begun
        left = _found(Semantic(clusters=1, similarity=0.95), vectors[sorted(set(range(rows)) - gone)])
        print(f"| {clusters} | {seconds:.1f} | {len(gone):,} | {len(left):,} |", flush=True)


def _between(real: NDArray[np.float64], rows: int) -> NDArray[np.float16]:
    rng = np.random.default_rng(0)
    share = rng.uniform(0.5, 1, (rows, 1))
    vectors = share * real[rng.integers(0, len(real), rows)] + (1 - share) * real[rng.integers(0, len(real), rows)]
    vectors += rng.normal(0, 0.25, vectors.shape) * np.linalg.norm(vectors, axis=1, keepdims=True) / vectors.shape[1] ** 0.5
    twins, of = rng.integers(0, rows, (2, rows // 5))
    spread = rng.uniform(0.02, 0.4, (len(of), 1)) * np.linalg.norm(vectors[of], axis=1, keepdims=True)
    vectors[twins] = vectors[of] + spread * rng.normal(size=(len(of), vectors.shape[1])) / vectors.shape[1] ** 0.5
    unit: NDArray[np.float16] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return unit


def _found(rule: Semantic, vectors: NDArray[np.float16]) -> set[int]:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    rows = pa.table({"ordinal": np.arange(len(vectors)), "generation": np.zeros(len(vectors), np.int64), rule.by: column})
    with tempfile.TemporaryDirectory() as folder:
        return set(rule.find(rows.to_reader(10_000), Scratch(folder, 4 << 30))["ordinal"].to_pylist())


def exact(rows: int, folder: str | None) -> None:
    """`dedup.exact` by url as the cut plays it: its DuckDB, its statements. One row in twenty repeats an earlier one's URL."""
    with tempfile.TemporaryDirectory(dir=folder) as spill:
        begun, before = time.perf_counter(), time.process_time()
        con = database.connect(spill, database.memory_for(rows))
        begin = 'CREATE TEMP TABLE "rows" AS'
        for first in range(0, rows, _BLOCK):
            con.register("block", _urls(first, min(_BLOCK, rows - first)))
            database.execute(con, f"{begin} SELECT * FROM block")
            con.unregister("block")
            begin = 'INSERT INTO "rows"'
        held = time.perf_counter() - begun
        print(f"{rows:,} rows held after {held:.0f} s, {_peak():.1f} GB", flush=True)
        database.execute(con, f"CREATE TEMP TABLE gone AS {Exact(by=['url']).reduce()}")
        gone = con.execute("SELECT count(*) FROM gone").fetchall()[0][0]
        files = sum(path.stat().st_size for path in Path(spill).rglob("*"))
        seconds = time.perf_counter() - begun - held
        cpu = time.process_time() - before
        print(f"{gone:,} duplicates after {seconds:.0f} s more; at most {_peak():.1f} GB, files {files / 1e9:.1f} GB")
        print(f"{cpu:.0f} s of CPU, the making of the URLs among it")
        assert gone == len(range(20, rows, 20))
        con.close()


def _urls(first: int, rows: int) -> pa.Table:
    """URLs of 75 characters; of a row whose ordinal 20 divides, the one of 20 rows before it, but of the very first."""
    ordinals = np.arange(first, first + rows)
    of = np.where(ordinals % 20 == 0, np.maximum(ordinals - 19, 0), ordinals)
    names = pc.binary_join_element_wise(
        "https://images", pa.array(of % 977).cast(pa.string()), ".example.com/2026/11/photos/", _digest(of), ".jpg", ""
    )
    return pa.table({"ordinal": ordinals, "url": names, "generation": np.zeros(rows, np.int64)})


def _digest(numbers: NDArray[np.int64]) -> pa.Array:
    mixed = chance(numbers, 0)
    return pc.binary_join_element_wise(pa.array(mixed).cast(pa.string()), pa.array(numbers).cast(pa.string()), "-")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    of_edits = parts.add_parser("edits")
    of_edits.add_argument("data")
    of_edits.add_argument("--files", type=int, default=1000, help="photos of each of the two sets")
    parts.add_parser("pairs")
    of_vectors = parts.add_parser("semantic")
    of_vectors.add_argument("file")
    of_vectors.add_argument("--rows", type=int, default=20_000)
    of_keys = parts.add_parser("exact")
    of_keys.add_argument("--rows", type=int, default=50_000_000)
    of_keys.add_argument("--folder", help="where DuckDB puts what does not fit; default: the system's folder for such")
    given = parser.parse_args()
    if given.part == "edits":
        edits(given.data, given.files)
    if given.part == "pairs":
        pairs()
    if given.part == "exact":
        exact(given.rows, given.folder)
    if given.part == "semantic":
        semantic(given.file, given.rows)


if __name__ == "__main__":
    main()
