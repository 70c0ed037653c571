"""Every stage that ships, found without being listed, against its contract.

A new stage needs one line in EXAMPLES: the smallest config that makes it, and rows that it can work on.
"""

import inspect
import io
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
import pytest

from pairsift.pipeline.config import build_entry, catalog, resolve
from pairsift.stages import schema, sql
from pairsift.stages.base import Entry, Filter, Finder, Reader, Scratch, Selector, Stage
from pairsift.stages.fates import Failure

USES = catalog()


@dataclass
class World:
    """What examples are made of."""

    folder: Path
    photos: dict[str, bytes]
    web: Any
    tiny_clip: Callable[[int], str]
    tiny_blip: str
    tiny_wordnet: Path


@dataclass
class Example:
    """Parameters of a stage, and the columns that it or its rule reads (a reader: none)."""

    parameters: dict[str, Any]
    rows: dict[str, Any] | None = None


def _urls(world: World) -> Example:
    path = world.folder / "urls.csv"
    path.write_bytes(b"url,caption,rank\nhttp://a/1.jpg,one,1\nhttp://a/2.jpg,two,2\nhttp://a/3.jpg,\xff,3\ntoo,few\n")
    return Example({"path": str(path)})


def _webdataset(world: World) -> Example:
    path = world.folder / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in {"a.jpg": b"\xff\xd8", "a.txt": b"a", "b.txt": b"no image", "c.jpg": b"", "c.json": b"{}"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Example({"path": str(path)})


def _img2dataset(world: World) -> Example:
    found = _webdataset(world)
    rows = {"key": ["a", "b", "c", "d"], "status": ["success"] * 3 + ["failed_to_download"], "url": ["http://a"] * 4}
    pq.write_table(pa.table(rows), world.folder / "00000.parquet")
    return found


def _image_parquet(world: World) -> Example:
    path = world.folder / "images.parquet"
    images = [{"bytes": data, "path": None} for data in (world.photos["coffee.jpg"], b"damaged", None)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), "caption": ["one", "two", "three"]}), path)
    return Example({"path": str(path)})


def _image_files(world: World) -> Example:
    (world.folder / "one.jpg").write_bytes(b"\xff\xd8")
    (world.folder / "list.csv").write_text("file,caption\none.jpg,one\nnone.jpg,none\n../one.jpg,outside\n")
    columns = {"file": "file", "caption": "caption"}
    return Example({"path": str(world.folder / "list.csv"), "folder": str(world.folder), "columns": columns})


def _union(world: World) -> Example:
    return Example({"parts": {"list": {"use": "read.urls", **_urls(world).parameters}}})


def _download(world: World) -> Example:
    names = ["coffee.jpg", "none.jpg", "rocket.jpg", "page.html", "brick.jpg"]
    world.web.files["page.html"] = b"<html>"
    urls = [*map(world.web.url, names), "http://[", "ftp://a/b", ""]
    return Example({"image_size": 32, "allow_private_addresses": True, "retries": 0}, {"url": urls})


def _embed(world: World) -> Example:
    images = [world.photos["coffee.jpg"], b"damaged", world.photos["rocket.jpg"], world.photos["moon.jpg"], b""]
    captions = ["coffee", "damaged", "", None, "nothing"]
    rows = {"image": pa.array(images, pa.large_binary()), "caption": captions}
    return Example({"model": world.tiny_clip(0), "batch_size": 2}, rows)


def _clip_similarity(world: World) -> Example:
    vectors = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float16)
    images, texts = (pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), 8) for v in vectors)
    return Example({}, {"image_embedding": images, "text_embedding": texts})


def _vectors() -> pa.Array:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8, mask=pa.array([False, True, False, False, False]))


def _asif(world: World) -> Example:
    path = world.folder / "anchors.npz"
    images, texts = np.random.default_rng(2).normal(size=(2, 9, 8)).astype(np.float32)
    np.savez(path, images=images, texts=texts)
    return Example({"anchors": str(path), "k": 4}, {"image_embedding": _vectors(), "text_embedding": _vectors()})


def _head(world: World) -> Example:
    path = world.folder / "head.npz"
    np.savez(path, weight=np.arange(8, dtype=np.float32)[None], bias=np.zeros(1, np.float32))
    return Example({"weights": str(path)}, {"image_embedding": _vectors()})


def _matching(world: World) -> Example:
    images = [world.photos["coffee.jpg"], b"damaged", None, world.photos["moon.jpg"], world.photos["coffee.jpg"]]
    rows = {"image": pa.array(images, pa.large_binary()), "caption": ["coffee", "damaged", "nothing", None, "a cup"]}
    return Example({"model": world.tiny_blip}, rows)


def _nearest(world: World) -> Example:
    np.save(world.folder / "centroids.npy", np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32))
    (world.folder / "listed.txt").write_text("".join(f"{n}\n" for n in range(15)))
    parameters = {"centroids": str(world.folder / "centroids.npy"), "listed": str(world.folder / "listed.txt")}
    return Example(parameters, {"image_embedding": _vectors()})


def _zero_shot(world: World) -> Example:
    path = world.folder / "labels.npz"
    np.savez(path, names=np.array(["cat", "dog"]), vectors=np.eye(2, 8, dtype=np.float32))
    return Example({"labels": str(path)}, {"image_embedding": _vectors()})


def _against(world: World) -> Example:
    (world.folder / "benchmark.txt").write_text("a CAT, a cat; a cat\n\nsomething else\n")
    return Example(
        {"reference": str(world.folder / "benchmark.txt"), "by": "caption", "match": "text"}, {"caption": _captions()}
    )


def _semantic(world: World) -> Example:
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), 3)
    return Example({"clusters": 5}, {"image_embedding": column})


def _where(world: World) -> Example:
    return Example({"keep": "length(caption) > 3"}, {"caption": ["long enough", "no", None]})


def _exact(world: World) -> Example:
    rng = np.random.default_rng(0)
    columns = {name: [None if n == 0 else f"{name} {n}" for n in rng.integers(0, 9, 200)] for name in ("url", "caption")}
    return Example({"by": ["url", "caption"]}, columns)


def _top_fraction(world: World) -> Example:
    rng = np.random.default_rng(0)
    scores = [None if score < 0.1 else float(score) for score in rng.random(200)]
    return Example(
        {"by": "score", "fraction": 0.3, "per": ["language"]}, {"score": scores, "language": rng.integers(0, 3, 200)}
    )


def _captions() -> list[str | None]:
    return [
        "A cat, a cat, a cat.",
        "",
        None,
        "Ein Hund am Strand",
        "see http://example.com/a.jpg",
        "IMG_0042.JPG",
        "猫 \U0001f600\n\u0645\u0631\u062d",
    ]


def _text_statistics(world: World) -> Example:
    return Example({}, {"caption": _captions()})


def _language(world: World) -> Example:
    return Example({"detector": "cld3"}, {"caption": _captions()})


def _entries(world: World) -> Example:
    (world.folder / "queries.txt").write_text("cat\nHund\na cat\n")
    return Example({"path": str(world.folder / "queries.txt")}, {"caption": _captions()})


def _listed(world: World) -> Example:
    (world.folder / "domains.txt").write_text("example.com\n")
    return Example({"path": str(world.folder / "domains.txt"), "column": "host", "match": "domain"}, {"host": _hosts()})


def _hosts() -> list[str | None]:
    return ["a.example.com", "example.com", "notexample.com", None, ""]


def _url_parts(world: World) -> Example:
    return Example({}, {"url": [None if host is None else f"http://{host}/1.jpg" for host in _hosts()] + ["http://["]})


def _wordnet(world: World) -> Example:
    (world.folder / "synsets.txt").write_text("n02084071\n")
    parameters = {"wordnet": str(world.tiny_wordnet), "synsets": str(world.folder / "synsets.txt")}
    return Example(parameters, {"caption": [*_captions(), "two dogs", "a dogged man"]})


def _tokens(world: World) -> Example:
    return Example({"tokenizer": world.tiny_clip(0)}, {"caption": _captions()})


def _images(world: World) -> pa.Array:
    images = [world.photos["coffee.jpg"], b"damaged", None, world.photos["moon.jpg"], world.photos["coffee.jpg"][:2000]]
    return pa.array(images, pa.large_binary())


def _image_statistics(world: World) -> Example:
    return Example({"side": 64}, {"image": _images(world)})


def _phash(world: World) -> Example:
    return Example({}, {"image": _images(world)})


def _perceptual(world: World) -> Example:
    hashes = np.random.default_rng(0).integers(0, 2**64, (100, 4), dtype=np.uint64)
    near = hashes ^ np.uint64(0b101)
    texts = [None, *(row.tobytes().hex() for row in np.concatenate([hashes[:99], near]))]
    return Example({"best": ["width"]}, {"phash": texts, "width": np.arange(200) % 7})


def _groups() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "uid": [f"{n:032x}" for n in range(200)],
        "caption": [None if n == 0 else f"word{n} other" for n in rng.zipf(1.5, 200).clip(0, 50)],
        "url": [f"u{n}" for n in rng.integers(0, 100, 200)],
        "score": rng.random(200),
        "entries": pa.array([sorted(set(row)) for row in rng.zipf(1.5, (200, 2)).clip(0, 30).tolist()], pa.list_(pa.int32())),
    }


def _of_groups(parameters: dict[str, Any], *columns: str) -> Callable[[World], Example]:
    return lambda world: Example(parameters, {name: _groups()[name] for name in columns})


EXAMPLES: dict[str, Callable[[World], Example]] = {
    "read.image_files": _image_files,
    "read.image_parquet": _image_parquet,
    "read.img2dataset": _img2dataset,
    "read.union": _union,
    "read.urls": _urls,
    "read.webdataset": _webdataset,
    "download": _download,
    "embed": _embed,
    "score.aesthetic": _head,
    "score.asif": _asif,
    "score.clip_similarity": _clip_similarity,
    "score.matching": _matching,
    "score.nearest": _nearest,
    "score.nsfw": _head,
    "score.zero_shot": _zero_shot,
    "filter.where": _where,
    "dedup.against": _against,
    "dedup.exact": _exact,
    "dedup.perceptual": _perceptual,
    "dedup.semantic": _semantic,
    "select.top_fraction": _top_fraction,
    "select.balance": _of_groups({"per_entry": 5}, "uid", "entries"),
    "select.cap": _of_groups({"per": ["caption"], "rows": 2, "best": "score"}, "caption", "score"),
    "select.frequent": _of_groups({"per": ["caption"], "distinct": ["url"], "most": 3}, "caption", "url"),
    "select.rare_words": _of_groups({"vocabulary": 10}, "caption"),
    "select.sample": _of_groups({"fraction": 0.5}, "uid"),
    "image.hashes": _phash,
    "image.phash": _phash,
    "image.statistics": _image_statistics,
    "text.entries": _entries,
    "text.language": _language,
    "text.listed": _listed,
    "text.statistics": _text_statistics,
    "text.tokens": _tokens,
    "text.url_normalised": _url_parts,
    "text.url_parts": _url_parts,
    "text.wordnet": _wordnet,
}


@pytest.fixture
def world(
    tmp_path: Path, photos: dict[str, bytes], web: Any, tiny_clip: Callable[[int], str], tiny_blip: str, tiny_wordnet: Path
) -> World:
    return World(tmp_path, photos, web, tiny_clip, tiny_blip, tiny_wordnet)


def uses(kind: type[Entry]) -> Any:
    return pytest.mark.parametrize("use", [use for use in USES if issubclass(resolve(use), kind)])


def made(use: str, world: World) -> tuple[Any, Example]:
    assert use in EXAMPLES, f"{use}: give it a line in EXAMPLES"
    example = EXAMPLES[use](world)
    return build_entry({"use": use, **example.parameters}, use, (Entry,)), example


def table(example: Example) -> pa.Table:
    assert example.rows is not None, "the example has no rows"
    columns = pa.table(example.rows)
    return columns.add_column(0, schema.ORDINAL, pa.array(range(100, 100 + len(columns)), pa.int64()))


def answer(stage: Stage, batch: pa.Table) -> pa.Table:
    with stage.open() as transform:
        return settled(transform(batch))


def settled(result: Any) -> pa.Table:
    if inspect.isawaitable(result):
        import asyncio

        return asyncio.run(_wait(result))
    return result


async def _wait(result: Any) -> Any:
    return await result


def codes(result: pa.Table) -> list[str | None]:
    found: list[str | None] = result["failure"].to_pylist() if "failure" in result.column_names else [None] * len(result)
    return found


def assert_keeps_contract(stage: Stage, batch: pa.Table, result: pa.Table) -> None:
    assert len(result) == len(batch)
    added = {field.name: field.type for field in result.schema if field.name not in ("failure", "failure_detail")}
    assert added == {field.name: field.type for field in stage.writes()}
    assert set(codes(result)) <= {None, *(failure.value for failure in Failure)}


def test_every_example_is_of_a_stage_that_ships() -> None:
    assert set(EXAMPLES) == set(USES)


@pytest.mark.parametrize("use", USES)
def test_it_is_a_model_that_says_what_it_is(use: str) -> None:
    cls = resolve(use)
    assert cls.model_config.get("frozen")
    assert cls.model_config.get("extra") == "forbid"
    assert inspect.getdoc(cls) != inspect.getdoc(cls.__mro__[1])
    assert (cls.__doc__ or "").strip().splitlines()[0].endswith((".", ":", ","))
    for name, field in cls.model_fields.items():
        assert field.description, f"{use}: {name} is not described"


@pytest.mark.parametrize("use", USES)
def test_it_travels_and_stays_the_same(use: str, world: World) -> None:
    from ray import cloudpickle

    entry, _ = made(use, world)
    entry.check()
    for copy in (pickle.loads(pickle.dumps(entry)), cloudpickle.loads(cloudpickle.dumps(entry))):
        assert type(copy) is type(entry)
        assert copy == entry
        assert copy.science() == entry.science()
    assert type(entry).model_validate(entry.model_dump(mode="json", by_alias=True)) == entry
    with pytest.raises(pydantic.ValidationError):
        entry.use = "something else"
    with pytest.raises(pydantic.ValidationError):
        type(entry).model_validate({**entry.model_dump(by_alias=True), "no_such_parameter": 1})


def test_naming_them_imports_no_model_library() -> None:
    code = (
        "import sys; from pairsift.pipeline.config import catalog\n"
        f"assert catalog() == {USES!r}\n"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@uses(Reader)
def test_a_reader_gives_its_columns_and_every_row_twice_the_same(use: str, world: World) -> None:
    reader, _ = made(use, world)
    extra = {"failure": pa.string(), "failure_detail": pa.string()}
    wanted = {field.name: field.type for field in reader.schema()}
    for source in reader.sources():
        tables = list(reader.read(source))
        assert sum(map(len, tables)) >= 3
        for found in tables:
            columns = {field.name: field.type for field in found.schema}
            assert {name: kind for name, kind in columns.items() if name not in extra} == wanted
            assert set(codes(found)) <= {None, *(failure.value for failure in Failure)}
        assert any(code for found in tables for code in codes(found)), "the example holds a row that cannot be read"
        assert pa.concat_tables(tables) == pa.concat_tables(reader.read(source))


@uses(Stage)
def test_a_stage_adds_what_it_writes_the_same_way_twice(use: str, world: World) -> None:
    stage, example = made(use, world)
    batch = table(example)
    assert {"ordinal", *stage.reads()} == set(batch.column_names)
    first = answer(stage, batch)
    assert_keeps_contract(stage, batch, first)
    assert None in codes(first), "the example holds a row that has a result"
    assert answer(stage, batch) == first


@uses(Stage)
def test_a_stage_keeps_order_and_no_row_looks_at_another(use: str, world: World) -> None:
    stage, example = made(use, world)
    batch = table(example)
    order = pa.array(np.random.default_rng(1).permutation(len(batch)))
    with stage.open() as transform:
        straight, shuffled = settled(transform(batch)), settled(transform(batch.take(order)))
        alone = pa.concat_tables([settled(transform(batch.slice(i, 1))) for i in range(len(batch))])
    for other in (shuffled, alone):
        expected = straight.take(order) if other is shuffled else straight
        assert codes(other) == codes(expected)
        for field in stage.writes():
            assert_alike(other[field.name], expected[field.name])


def assert_alike(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> None:
    """Equal, but for the rounding of sums that are added up in batches."""
    if not (pa.types.is_fixed_size_list(found.type) or pa.types.is_floating(found.type)):
        assert found.to_pylist() == expected.to_pylist()
        return
    for one, other in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=2e-3)


@uses(Stage)
def test_rows_of_nulls_are_no_error(use: str, world: World) -> None:
    stage, example = made(use, world)
    batch = table(example)
    nulls = [batch["ordinal"], *(pa.nulls(len(batch), batch.schema.field(name).type) for name in batch.column_names[1:])]
    empty = pa.table(nulls, schema=batch.schema)
    result = answer(stage, empty)
    assert_keeps_contract(stage, empty, result)
    for field in stage.writes():
        failed = [code is not None for code in codes(result)]
        assert all(value is None for value, dead in zip(result[field.name].to_pylist(), failed, strict=True) if dead)


@uses(Filter)
def test_a_filter_is_a_predicate_over_what_it_reads(use: str, world: World) -> None:
    rule, example = made(use, world)
    rows = table(example)
    assert {*rule.reads(), "ordinal"} == set(rows.column_names)
    sql.check_predicate(rule.predicate(), rows.schema)
    if rule.score():
        sql.typecheck(rule.score(), rows.schema)
    assert rule.label()
    kept = sql.evaluate(rule.predicate(), rows)
    assert 0 < kept.true_count < len(rows), "the example has rows of both kinds"


@uses(Selector)
def test_a_selector_can_be_run_on_hash_partitions(use: str, world: World) -> None:
    selector, example = made(use, world)
    rows = table(example)
    rows = rows.append_column("generation", pa.array([0] * len(rows)))
    assert {*selector.reads(), "ordinal", "generation"} == set(rows.column_names)
    for key in selector.key():
        sql.typecheck(key, rows.schema)
    everything = taken_out(selector, rows, world.folder)
    assert 0 < len(everything) < len(rows), "the example has rows of both kinds"
    assert len({ordinal for ordinal, _, _ in everything}) == len(everything)
    if selector.key():
        keyed = ", ".join(selector.key())
        parts = duckdb.sql(f"SELECT *, hash({keyed}) % 5 AS part FROM rows").to_arrow_table()
        found = [taken_out(selector, parts.filter(pc.equal(parts["part"], n)), world.folder) for n in range(5)]
        assert sorted(row for part in found for row in part) == everything
    mixed = rows.take(pa.array(np.random.default_rng(2).permutation(len(rows))))
    assert taken_out(selector, mixed, world.folder) == everything


def taken_out(selector: Selector, rows: pa.Table, folder: Path) -> list[tuple[int, int | None, float | None]]:
    """(ordinal, duplicate_of, score), by ordinal."""
    with duckdb.connect() as connection:
        if isinstance(selector, Finder):
            connection.register("found", selector.find(rows.to_reader(50), Scratch(str(folder), 1 << 24)))
        else:
            connection.register("rows", rows)
        query = f"SELECT ordinal::BIGINT, duplicate_of::BIGINT, score::DOUBLE FROM ({selector.reduce()})"
        return sorted(connection.execute(query).fetchall())
