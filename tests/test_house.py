"""What holds for the repository as a whole: its import names, its documentation, what it ships, and what it never names."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("configs", "pipeline", "stages")  # folders of the root that are packages by links in src/pairsift


def _tracked() -> list[Path]:
    """Files of the repository as git sees them (those about to be added, too), relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [Path(name) for name in listed if name and os.path.lexists(ROOT / name)]


def _python(code: str, cwd: Path) -> str:
    """What `code` prints in a fresh, isolated interpreter: `cwd` is where it runs, not a place to import from."""
    done = subprocess.run([sys.executable, "-I", "-c", code], check=False, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Import names


@pytest.mark.parametrize("where", ["elsewhere", "root"])
def test_bare_names_are_not_importable(where: str, tmp_path: Path) -> None:
    code = "from importlib.util import find_spec; print([n for n in ('pipeline', 'stages', 'configs') if find_spec(n)])"
    assert _python(code, ROOT if where == "root" else tmp_path) == "[]"


def test_no_file_is_two_modules() -> None:
    names: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__":
            names.setdefault(os.path.realpath(file), []).append(name)
    ours = {file: found for file, found in names.items() if Path(file).is_relative_to(ROOT) and ".venv" not in file}
    assert {file: found for file, found in ours.items() if len(found) > 1} == {}
    assert not {"pipeline", "stages"} & {name.partition(".")[0] for name in sys.modules}


@pytest.mark.parametrize("module", ["pairsift", "pairsift.pipeline.cli.main", "pairsift.pipeline.config"])
def test_starting_up_imports_no_model_library_and_no_ray(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'ray'}} & set(sys.modules)))"
    assert _python(code, tmp_path) == "[]"


def test_stages_without_a_model_import_no_model_library(tmp_path: Path) -> None:
    families = ("read", "download", "pixels", "filter", "select", "dedup")
    files = [file for file in _tracked() if file.suffix == ".py" and file.parts[0] == "stages"]
    chosen = [file for file in files if len(file.parts) == 2 or file.parts[1] in families]
    modules = ["pairsift." + ".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in chosen]
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'transformers', 'ray'}} & set(sys.modules)))"
    assert _python(code, tmp_path) == "[]"


# Arrow's threads


def _reads_of_parquet(code: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call for call in calls if re.search(r"^pq\.read_table$|\.iter_batches$|arquet\w*\.read$", ast.unparse(call.func))]


def test_parquet_is_read_without_threads() -> None:
    """A process that ends soon after Arrow's threads have begun may abort: see upkeep/tables.py."""
    reads = [
        (f"{file}:{call.lineno}", {word.arg: ast.unparse(word.value) for word in call.keywords}.get("use_threads"))
        for file in _tracked()
        if file.suffix == ".py" and file.parts[0] in ("pipeline", "stages")
        for call in _reads_of_parquet((ROOT / file).read_text(encoding="utf-8"))
    ]
    assert len(reads) > 10
    assert [place for place, threads in reads if threads != "False"] == []


# Documentation


def test_every_module_says_what_it_is_for() -> None:
    modules = [file for file in _tracked() if file.suffix == ".py" and file.parts[0] in ("pipeline", "stages", "src")]
    assert modules
    documented = {file: ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) for file in modules}
    assert [str(file) for file, text in documented.items() if len((text or "").split()) < 3] == []


def _fenced(page: Path) -> dict[str, str]:
    """The fenced blocks of a page that begin with a comment naming their file: file name to text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(# (\S+\.\w+)\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {name: block for block, name in blocks}


def test_the_page_on_adding_a_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pairsift.pipeline.config import load_config

    files = _fenced(Path("docs/adding-a-stage.md"))
    assert sorted(files) == ["mylab/sharpness.py", "recipe.yaml", "test_sharpness.py"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mylab", "mylab.sharpness", "test_sharpness"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    config = load_config("recipe.yaml")
    assert [entry.use for entry in config.stages] == ["download", "mylab.sharpness", "filter.where"]
    tests = [check for name, check in vars(importlib.import_module("test_sharpness")).items() if name.startswith("test_")]
    assert len(tests) == 1
    for check in tests:
        check()


# What ships


class Built(NamedTuple):
    """File names in the sdist and in the wheel, and the wheel's metadata."""

    sdist: set[str]
    wheel: set[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist made from the tracked files, and a wheel made from that sdist, as `pip install` would."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for file in _tracked():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, source / file, follow_symlinks=False)
    sdist = out / _build("build_sdist", source, out)
    shutil.unpack_archive(sdist, out)
    unpacked = out / sdist.name.removesuffix(".tar.gz")
    in_sdist = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*") if file.is_file()}
    with zipfile.ZipFile(out / _build("build_wheel", unpacked, out)) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        return Built(in_sdist, names, message_from_bytes(archive.read(metadata)))


def _build(hook: str, source: Path, out: Path) -> str:
    """Call setuptools as pip does, without the network: the file's name."""
    code = f"import setuptools.build_meta as backend; print(backend.{hook}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Built) -> None:
    shipped = {f"pairsift/{file.as_posix()}" for file in _tracked() if file.parts[0] in LINKED}
    shipped |= {"pairsift/__init__.py", "pairsift/_allocator.py", "pairsift/py.typed"}
    assert {name for name in built.wheel if ".dist-info/" not in name} == shipped
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in built.wheel)


def test_the_sdist_holds_what_a_build_needs(built: Built) -> None:
    assert {"LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "pyproject.toml", "src/pairsift/py.typed"} <= built.sdist


def test_the_image_is_made_of_what_it_is_let_see(built: Built) -> None:
    """No engine for containers runs here: a file that is not copied, or that the builder is not given, is seen by nobody."""
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]}
    let_in = {line[1:] for line in (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    licences = {name.rpartition("/")[2] for name in built.wheel if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert licences <= copied


def test_constraints_pin_every_dependency(built: Built) -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"}
    wanted = {_name(text) for text in built.metadata.get_all("Requires-Dist", [])}
    assert wanted - pinned == {"pairsift"}  # its own extras name it


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_yaml_file_parses() -> None:
    for file in _tracked():
        if file.suffix in (".yaml", ".yml"):
            list(yaml.safe_load_all((ROOT / file).read_text(encoding="utf-8")))


# What is never named


def test_no_file_names_this_machine_or_a_package_host() -> None:
    hosts = [f"{name}.org" for name in ("pypi", "pythonhosted", "download.pytorch", "anaconda")]
    forbidden = [str(ROOT), Path("..", "shared").as_posix(), *hosts]
    allowed = {Path("tests/conftest.py")}  # the default of PAIRSIFT_TEST_DATA
    found = []
    for file in _tracked():
        if (ROOT / file).is_file() and file not in allowed:
            content = (ROOT / file).read_bytes()
            found += [f"{file}: {text}" for text in forbidden if text.encode() in content]
    assert found == []
