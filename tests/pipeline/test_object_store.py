"""Input, work and output in an object store: a real one that speaks S3, on loopback."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pairsift
from pairsift.pipeline.control.lock import Fence, FencedError, hold, holder
from pairsift.pipeline.upkeep.check import check, fix
from pairsift.pipeline.upkeep.clean import clean
from pairsift.pipeline.upkeep.remove import remove
from pairsift.pipeline.upkeep.why import why
from pairsift.stages.base import ConfigError
from pairsift.stages.storage import Folder


def free_ports() -> list[int]:
    """Four in a row, below 20000: the server puts its gRPC ports 10000 above."""
    for first in range(18000, 19000, 4):
        if all(is_free(port) and is_free(port + 10000) for port in range(first, first + 4)):
            return list(range(first, first + 4))
    raise OSError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("weed")
    identity = {"name": "test", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(["master", "volume", "filer", "s3"], free_ports(), strict=True))
    command = [
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield make_bucket(time.monotonic() + 60)
        finally:
            server.kill()  # its orderly end takes half a minute
            server.wait()


def make_bucket(deadline: float) -> str:
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    while True:
        try:
            store.mkdir("s3://bucket")
            with store.open("s3://bucket/ready", "wb") as file:  # the volume server comes up last
                file.write(b"1")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return "s3://bucket"


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_run_from_store_to_store(bucket: str, runner: str, web: Any, tmp_path: Path) -> None:
    store = fsspec.filesystem("s3")
    urls = [web.url(name) for name in sorted(web.files)[:9]]
    with store.open(f"{bucket}/in-{runner}/list.parquet", "wb") as file:
        pq.write_table(pa.table({"url": urls + urls, "caption": [f"caption {i}" for i in range(18)]}), file)
    stages = [{"use": "dedup.exact", "by": ["url"]}, {"use": "download", "allow_private_addresses": True, "image_size": 64}]
    config = {"input": {"use": "read.urls", "path": f"{bucket}/in-{runner}/*.parquet", "unit_rows": 4}, "stages": stages}
    config |= {"shards": {"rows": 5}}
    whole = {**config, "output": f"{bucket}/out-{runner}"}
    if runner == "ray":  # a Ray of its own, whose workers have the bucket's settings in their environment
        (tmp_path / "config.json").write_text(json.dumps(whole))
        command = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run", str(tmp_path / "config.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results = pairsift.open(f"{bucket}/out-ray")
    else:
        results = pairsift.run(whole, runner=runner)
    assert results.report["counts"] | {"success": 9, "duplicate": 9} == results.report["counts"]
    local = pairsift.run({**config, "output": str(tmp_path / "out")}, runner="local")
    assert results.fates() == local.fates()
    assert results.sql("SELECT count(*) FROM ledger WHERE width IS NOT NULL").fetchall() == [(9,)]
    for path in sorted((tmp_path / "out" / "shards").iterdir()):
        assert store.cat_file(f"{bucket}/out-{runner}/shards/{path.name}") == path.read_bytes(), path.name
    asked = len(web.requests)
    pairsift.run(whole, runner="local")
    assert len(web.requests) == asked


def test_outputs_in_an_object_store_are_looked_after(bucket: str, web: Any, tmp_path: Path) -> None:
    urls = [web.url(name) for name in sorted(web.files)[:6]]
    pq.write_table(pa.table({"url": urls, "caption": [f"caption {i}" for i in range(6)]}), tmp_path / "list.parquet")
    source = {"use": "read.urls", "path": str(tmp_path / "list.parquet"), "unit_rows": 4}
    stages = [{"use": "download", "allow_private_addresses": True, "image_size": 64}]
    output = f"{bucket}/kept"
    config = {"input": source, "output": output, "stages": stages, "shards": {"rows": 2}}
    pairsift.run(config, runner="local")
    assert check(output, lambda _: None).problems == []
    store = fsspec.filesystem("s3")
    [payload] = store.glob(f"{output}/work/payloads/*/*/000000001-*.tar")
    store.pipe_file(payload, store.cat_file(payload)[:-512])
    store.rm_file(f"{output}/shards/00002.parquet")
    found = check(output, lambda _: None).problems
    assert {problem.where.rpartition("/")[2] for problem in found} == {payload.rpartition("/")[2], "00002.parquet"}
    fix(output, found)
    pairsift.run(config, runner="local")
    assert check(output, lambda _: None).problems == []
    [story] = why(output, urls[3])
    assert story.verdict == f"kept: {output}/shards/00001.tar as 000000003"
    pairsift.run({**config, "stages": [{**stages[0], "image_size": 32}]}, runner="local", replace=True)
    assert sum(len(kind.files) for kind in clean([output], yes=True)[0].kinds) >= 5  # layers, payloads, the orphan
    assert check(output, lambda _: None).problems == []
    removal = remove(output, [("url", urls[3])], yes=True)
    assert (removal.images, removal.shards, removal.complete) == (1, ["00001"], True)
    assert check(output, lambda _: None).problems == []
    assert why(output, urls[3])[0].verdict.startswith("removed on request")


def test_in_an_object_store_a_holder_that_beats_is_left_alone(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairsift.pipeline.control.lock.BEAT_SECONDS", 0.3)
    monkeypatch.setattr("pairsift.pipeline.control.lock.STILL_SECONDS", 2.0)
    folder = Folder(f"{bucket}/locked")
    with hold(folder) as fence:
        fence.check()
        found = holder(folder)
        assert found is not None
        with pytest.raises(ConfigError, match="in use by process"), hold(folder):
            pass
    assert holder(folder) is None


def test_in_an_object_store_a_silent_holder_is_taken_over(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairsift.pipeline.control.lock.STILL_SECONDS", 1.0)
    folder = Folder(f"{bucket}/silent")
    dead = {"host": "elsewhere", "pid": 1, "since": "2026-01-01", "alive": "2026-01-01T00:00:00+00:00", "token": "t"}
    folder.write("run.lock", json.dumps(dead).encode())
    with hold(folder) as fence:
        with pytest.raises(FencedError):
            Fence(folder, "t").check()
        fence.check()


def test_in_an_object_store_a_new_file_is_never_written_over(bucket: str) -> None:
    folder = Folder(f"{bucket}/exclusive")
    names = [f"a/{n}" for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        wrote = [
            list(pool.map(lambda body, name=name: folder.create_exclusive(name, body), [b"1", b"2", b"3", b"4"]))
            for name in names
        ]
    assert [sum(by) for by in wrote] == [1] * 8
    assert [folder.read(name) for name in names] == [str(by.index(True) + 1).encode() for by in wrote]
    assert not Folder(f"{bucket}/exclusive").create_exclusive("a/0", b"5")
