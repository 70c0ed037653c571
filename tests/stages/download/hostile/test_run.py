"""All of it at once, through `pairsift run`: the fates add up, and the shards hold the good pictures."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile import cases
from hostile.server import Server


def run(config: dict[str, Any], folder: Path, authority: Path) -> int:
    """Exit code of `pairsift run` in a process of its own that trusts the tests' authority."""
    (folder / "config.json").write_text(json.dumps(config))
    command = [str(Path(sys.executable).with_name("pairsift")), "run", str(folder / "config.json"), "--runner", "local"]
    environment = {**os.environ, "SSL_CERT_FILE": str(authority)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.returncode


def test_the_fates_add_up(hostile: Server, tmp_path: Path) -> None:
    bad = cases.refused(hostile)
    good = [*cases.accepted(hostile), f"https://127.0.0.1:{hostile.tls['valid']}/good"]
    expected: list[tuple[str | None, str | set[str] | None]] = [(None, "invalid_url"), ("", "invalid_url")]
    expected += [*bad.items(), *((url, None) for url in good)]
    expected = [row for i in range(7) for row in expected[i::7]]  # the good among the bad
    urls = pa.table({"url": pa.array([url for url, _ in expected], pa.string()), "caption": ["a caption"] * len(expected)})
    pq.write_table(urls, tmp_path / "urls.parquet")
    config = {
        "input": {"use": "read.urls", "path": str(tmp_path / "urls.parquet"), "unit_rows": 50},
        "output": str(tmp_path / "out"),
        "stages": [{"use": "download", "connections": 100, **cases.PARAMETERS}],
        "shards": {"rows": 20},
        "guard": {"partial": 1},  # most of these rows are meant to fail
    }
    run(config, tmp_path, hostile.authority.path)

    fates = pq.read_table(tmp_path / "out" / "fates.parquet").to_pylist()
    assert [fate["url"] for fate in fates] == [url for url, _ in expected]
    wrong = [
        (fate["url"], fate["code"], fate["error_message"], code)
        for fate, (_, code) in zip(fates, expected, strict=True)
        if not (fate["code"] in code if isinstance(code, set) else fate["code"] == code)
    ]
    assert wrong == [], "\n".join(map(str, wrong))
    messages = {fate["url"]: fate["error_message"] or "" for fate in fates}
    for kind, words in {"self_signed": "self", "expired": "expired", "wrong_host": "not valid for '127.0.0.1'"}.items():
        assert words in messages[f"https://127.0.0.1:{hostile.tls[kind]}/good"]

    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["rows"] == len(expected) == sum(report["counts"].values())
    assert report["kept"] == report["counts"]["success"] == len(good)
    assert report["failures"] == dict(Counter(fate["code"] for fate in fates if fate["code"]))
    assert report["counts"]["failed_to_download"] + report["counts"]["failed_to_resize"] == sum(report["failures"].values())
    stored = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out" / "shards").glob("*.parquet")))
    assert stored.column("url").to_pylist() == [url for url, code in expected if code is None]
