"""A small output to look after: photographs over HTTP, three shards, a stage after the download."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STAGES: list[dict[str, Any]] = [
    {"use": "filter.where", "keep": "length(caption) > 3"},
    {"use": "dedup.exact", "by": ["url"]},
    {"use": "download", "allow_private_addresses": True, "image_size": 64, "retries": 0},
    {"use": "filter.where", "keep": "original_width >= 300", "name": "wide enough"},
]


@pytest.fixture
def config(tmp_path: Path, web: Any, listing: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Of ten photos, a 404, a short caption and a duplicate, in units of four; three samples a shard."""
    names = sorted(web.files)[:10]
    rows: list[Any] = [(web.url(name), f"caption {name}") for name in names]
    rows[3:3] = [(web.url("missing.jpg"), "not there"), (web.url(names[0]), "once more"), (web.url("x.jpg"), "abc")]
    return {"input": listing(rows), "output": str(tmp_path / "out"), "stages": STAGES, "shards": {"rows": 3}}


@pytest.fixture
def run(config: dict[str, Any]) -> Callable[..., Any]:
    """Runs the config, changed."""
    import pairsift

    def go(*, replace: bool = False, retry_failed: bool = False, **changes: Any) -> Any:
        return pairsift.run({**config, **changes}, runner="local", replace=replace, retry_failed=retry_failed)

    return go


@pytest.fixture
def output(run: Callable[..., Any], tmp_path: Path) -> Path:
    run()
    return tmp_path / "out"


def files(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


@pytest.fixture
def published() -> Callable[[Path], dict[str, str]]:
    """Name → hash of all that two runs have in common."""

    def hashes(output: Path) -> dict[str, str]:
        found = files(output, "shards/*", "fates.parquet")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    return hashes
