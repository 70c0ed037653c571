"""Disks that are full, read-only or lost, files damaged by hand, clocks that jump: one clear line, nothing lost, and on."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pairsift
from pairsift.pipeline.upkeep.check import check, fix

COMMAND = [sys.executable, "-m", "pairsift.pipeline.cli.main", "run"]
REMEDY = "`pairsift check` says what to do"
ROWS = 48
THUMBNAIL = {"use": "download", "image_size": 64, "allow_private_addresses": True, "timeout": 20, "retries": 0}
LETTERS = {"use": "pairsift_toys.slow", "seconds": 0}


@pytest.fixture
def config(tmp_path: Path, web: Any, listing: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A download, a stage after it, a rule over all rows; eleven shards. The output and its work folder lie apart."""
    names = sorted(web.files)
    rows = [(web.url(f"{names[i % len(names)] if i % 7 else 'none.jpg'}?{i}"), f"caption {i}") for i in range(ROWS)]
    return {
        "input": listing(rows, unit_rows=6),
        "output": str(tmp_path / "out"),
        "work": str(tmp_path / "work"),
        "stages": [{"use": "dedup.exact", "by": ["url"]}, THUMBNAIL, LETTERS],
        "shards": {"rows": 4},
    }


@pytest.fixture
def go(config: dict[str, Any]) -> Callable[..., Any]:
    """Runs the config, changed, in this process."""

    def run(runner: str = "local", **changes: Any) -> Any:
        return pairsift.run({**config, **changes}, runner=runner)

    return run


@pytest.fixture
def undisturbed(tmp_path: Path, go: Callable[..., Any]) -> dict[str, str]:
    """What has to come out."""
    go(output=str(tmp_path / "undisturbed"), work=str(tmp_path / "undisturbed" / "work"))
    return tree(tmp_path / "undisturbed")


def tree(output: Path) -> dict[str, str]:
    files = [*sorted((output / "shards").iterdir()), output / "fates.parquet"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def complaint(go: Callable[[], Any]) -> str:
    """The one line of the OSError that ends a run; `pairsift run` says it, and its exit code is 1."""
    with pytest.raises(OSError) as told:
        go()
    assert "\n" not in str(told.value)
    return str(told.value)


# Runs the command on a small disk of its own, frees the disk, and runs the command again.
TWICE = """
mount -t tmpfs -o size={size} tmpfs {disk} && {prepare} || exit 77
{command} 2> {log}.1; echo $? > {log}.code.1
find {disk} -type f > {log}.files
mount -o remount,rw,size=1g {disk}
{command} 2> {log}.2; echo $? > {log}.code.2
cp -r {disk}/out {log}.out
"""


class SmallDisk:
    """A disk that only these two runs see. Mounting one needs no more than a user namespace, where the system allows that."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.disk, self._file, self._log = folder / "disk", folder / "config.json", folder / "log"
        self.disk.mkdir()
        self.config = config | {"output": str(self.disk / "out"), "work": str(self.disk / "out" / "work")}

    def run_twice(self, runner: str, size: int, prepare: str = "true") -> None:
        self._file.write_text(json.dumps(self.config))
        command = " ".join([*COMMAND, str(self._file), "--runner", runner])
        script = TWICE.format(size=size, disk=self.disk, prepare=prepare, command=command, log=self._log)
        done = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], check=False)
        if not self._log.with_suffix(".code.1").exists():
            pytest.skip(f"no disk can be mounted here: unshare and mount ended with {done.returncode}")

    def code(self, run: int) -> int:
        return int(self._log.with_suffix(f".code.{run}").read_text())

    def said(self, run: int) -> list[str]:
        """Its lines on stderr but those of progress."""
        lines = self._log.with_suffix(f".{run}").read_text().splitlines()
        return [line for line in lines if " in " not in line and " of " not in line]

    def left(self) -> list[str]:
        """Names of the files that the first run left."""
        return [Path(line).name for line in self._log.with_suffix(".files").read_text().splitlines()]

    @property
    def output(self) -> Path:
        """What was there after the second run."""
        return self._log.with_suffix(".out")


@pytest.mark.parametrize(("runner", "share"), [("local", 0.02), ("local", 0.3), ("local", 0.7), ("ray", 0.3)])
def test_a_full_disk(tmp_path: Path, config: dict[str, Any], undisturbed: dict[str, str], runner: str, share: float) -> None:
    """It is full while rows are read, while images are stored, and while shards are written."""
    needed = sum(file.stat().st_blocks * 512 for file in (tmp_path / "undisturbed").rglob("*"))
    disk = SmallDisk(tmp_path, config)
    disk.run_twice(runner, int(needed * share) // 4096 * 4096)
    assert disk.code(1) == 1, disk.said(1)
    [line] = disk.said(1)
    assert line.startswith(f"pairsift: {disk.disk}/out/")
    assert line.endswith(": No space left on device; make room and run again: what is done is kept")
    assert not [name for name in disk.left() if name.endswith(".tmp")]
    assert disk.code(2) == 0, disk.said(2)
    assert tree(disk.output) == undisturbed


@pytest.mark.parametrize("begun", [False, True])
def test_a_read_only_disk(tmp_path: Path, config: dict[str, Any], undisturbed: dict[str, str], begun: bool) -> None:
    """From the beginning, or after a run that has left its work there."""
    disk = SmallDisk(tmp_path, config)
    first = "true"
    if begun:
        shutil.copytree(tmp_path / "undisturbed" / "work", tmp_path / "begun")
        first = f"mkdir {disk.disk}/out && cp -r {tmp_path}/begun {disk.disk}/out/work"
    disk.run_twice("local", 1 << 26, f"{first} && mount -o remount,ro {disk.disk}")
    assert disk.code(1) == 1
    [line] = disk.said(1)
    assert line.startswith("pairsift: [Errno 30] Read-only file system: ")
    assert f"{disk.disk}/out" in line
    assert disk.code(2) == 0, disk.said(2)
    assert tree(disk.output) == undisturbed


def test_an_output_that_was_lost_is_made_again_from_its_work(
    tmp_path: Path, web: Any, go: Callable[..., Any], undisturbed: dict[str, str]
) -> None:
    go()
    asked = len(web.requests)
    shutil.rmtree(tmp_path / "out")
    go()
    assert tree(tmp_path / "out") == undisturbed
    assert len(web.requests) == asked


@pytest.mark.parametrize(("lost", "runner"), [("out", "local"), ("work", "local"), ("out/work", "ray")])
def test_a_folder_that_is_lost_during_a_run(
    tmp_path: Path, config: dict[str, Any], go: Callable[..., Any], undisturbed: dict[str, str], lost: str, runner: str
) -> None:
    inside = lost == "out/work"
    config["work"] = str(tmp_path / "out" / "work") if inside else config["work"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    process = subprocess.Popen([*COMMAND, str(file), "--runner", runner], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(Path(config["work"]).glob("layers/download-*/*/*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "in vain"
        time.sleep(0.001)
    shutil.rmtree(tmp_path / ("out" if inside else lost), ignore_errors=True)  # it may be written to meanwhile
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    if process.returncode:
        assert (process.returncode, said.count("pairsift: ")) == (1, 1), said
    for _ in range(2):  # images that were lost show once the rest has been taken in again
        with suppress(OSError):
            go()
        follow(Path(config["work"]))
    go()
    assert tree(tmp_path / "out") == undisturbed


def follow(place: Path) -> None:
    """Do what `pairsift check` says. An input layer is taken in again only when people say so."""
    if not place.exists():
        return
    problems = check(str(place), lambda _: None).problems
    fix(str(place), problems)
    for problem in problems:
        if "taken in again" in problem.remedy:
            for generation in (place if place.name == "work" else place.parent / "work").glob("generations/*.json"):
                assert str(generation) in problem.remedy
                generation.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def halfway(tmp_path: Path, go: Callable[..., Any], undisturbed: dict[str, str]) -> Path:
    """A run that has downloaded everything, and has the rest to do; returns its work folder."""
    go()
    shutil.rmtree(tmp_path / "out")
    for path in (tmp_path / "work").glob("layers/pairsift_toys.*/*/*"):
        path.unlink()
    return tmp_path / "work"


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("layers/input-*/*/000000003.parquet", cut_short, ": cannot be read: "),
    ("layers/input-*/*/000000003.parquet", zeroed, ": cannot be read: "),
    ("layers/input-*/*/000000003.parquet", Path.unlink, ": holds 42 of 48 rows of the input; "),
    ("layers/download-*/*/000000003.parquet", cut_short, ": cannot be read: "),
    ("layers/download-*/*/000000003.parquet", emptied, ": cannot be read: "),
    ("payloads/download-*/*/000000003-*.tar", cut_short, ": the file is damaged or was replaced; "),
    ("payloads/download-*/*/000000003-*.tar", zeroed, ": holds zeros at "),
    ("payloads/download-*/*/000000003-*.tar", Path.unlink, ": images lie in it, and it is missing; "),
    ("generations/00000.json", cut_short, ": damaged: "),
    ("generations/00000.json", zeroed, ": damaged: "),
]


@pytest.mark.parametrize(("pattern", "harm", "what"), DAMAGES)
def test_what_is_damaged_is_named_and_made_again(
    tmp_path: Path,
    go: Callable[..., Any],
    halfway: Path,
    undisturbed: dict[str, str],
    pattern: str,
    harm: Callable[[Path], None],
    what: str,
) -> None:
    [path] = halfway.glob(pattern)
    harm(path)
    told = complaint(go)
    folder = path.parents[1] if "of 48 rows" in what else path  # of what is not there, only the layer can be named
    assert told.startswith(str(folder))
    assert what in told.replace("byte ", ": ")
    assert told.endswith(REMEDY)
    assert complaint(go) == told  # nothing was made worse
    follow(halfway)
    go()
    assert tree(tmp_path / "out") == undisturbed


def test_damage_is_told_by_rays_workers_too(
    tmp_path: Path, go: Callable[..., Any], halfway: Path, undisturbed: dict[str, str], ray_session: None
) -> None:
    """One looks at a layer of the input, another at a payload that it packs."""
    for pattern in ("layers/input-*/*/000000003.parquet", "payloads/download-*/*/000000003-*.tar"):
        [path] = halfway.glob(pattern)
        whole = path.read_bytes()
        cut_short(path)
        told = complaint(lambda: go("ray"))
        assert told.startswith(str(path))
        assert told.endswith(REMEDY)
        path.write_bytes(whole)
    go("ray")
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("name", ["cut.json", "run.json"])
@pytest.mark.parametrize("harm", [cut_short, zeroed, emptied])
def test_damaged_json_of_an_output(
    tmp_path: Path, go: Callable[..., Any], undisturbed: dict[str, str], name: str, harm: Callable[[Path], None]
) -> None:
    go()
    harm(tmp_path / "out" / name)
    told = complaint(go)
    assert told == f"{tmp_path}/out/{name}: damaged: it is no JSON object; {REMEDY}"
    follow(tmp_path / "out")
    go()
    assert tree(tmp_path / "out") == undisturbed


def test_what_can_be_made_again_may_be_damaged(tmp_path: Path, go: Callable[..., Any], undisturbed: dict[str, str]) -> None:
    go()
    out, work = tmp_path / "out", tmp_path / "work"
    made = [out / "fates.parquet", *out.glob("log/*"), *out.glob("shards/*_stats.json"), out / "shards" / "sizes.json"]
    made += [*work.glob("masks/*"), out / "run.lock", work / "run.lock", work / "workers.lock"]
    for harm in (zeroed, cut_short, Path.unlink):
        for path in made:
            path.touch()
            harm(path)
        go()
        assert tree(out) == undisturbed


def test_records_that_nothing_can_make_again(tmp_path: Path, go: Callable[..., Any], undisturbed: dict[str, str]) -> None:
    """Takedowns are not forgotten."""
    go()
    for record in (tmp_path / "work" / "tombstones" / "00000.parquet", tmp_path / "out" / "removed.json"):
        record.parent.mkdir(exist_ok=True)
        record.write_bytes(b"{")
        assert complaint(go) == f"{record}: damaged, and nothing can make it again; put it back from a copy"
        record.unlink()
    go()
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("seconds", [-(10**9), 10**9])
def test_a_clock_that_jumped(
    tmp_path: Path, config: dict[str, Any], go: Callable[..., Any], halfway: Path, undisturbed: dict[str, str], seconds: int
) -> None:
    """All files are of another decade, as is the card of a run that was killed."""
    jumped = time.time() + seconds
    card = {"host": "localhost", "pid": 1, "since": "2061-01-01T00:00:00.000+00:00", "alive": "2061-01-01T00:00:00.000+00:00"}
    (halfway / "run.lock").write_text(json.dumps({**card, "token": "0" * 32}))
    (tmp_path / "out" / "log").mkdir(parents=True)
    (tmp_path / "out" / "log" / "20610101T000000Z-00000000.jsonl").write_text("")
    for path in [*halfway.rglob("*"), *(tmp_path / "out").rglob("*")]:
        os.utime(path, (jumped, jumped))
    computed = go().report["rows_computed"]
    assert (computed["download"], computed["pairsift_toys.slow"]) == (0, 41)
    assert tree(tmp_path / "out") == undisturbed
