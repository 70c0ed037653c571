"""From a YAML or JSON file to the objects it names, with one clear line for every mistake."""

import difflib
import importlib
import importlib.util
import json
import os
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pairsift import stages
from pairsift.pipeline.sections import Guard, Release, Shards
from pairsift.stages import sql
from pairsift.stages.base import ConfigError, Entry, Filter, Reader, Selector, Stage
from pairsift.stages.storage import absolute

E = TypeVar("E", bound=Entry)
_CONTRACTS = (Reader, Stage, Filter, Selector)
_NAMESPACE = stages.__name__
_LEAST_BYTES = 16 << 20  # with less, DuckDB does not get through a block
_MOST_PARTITIONS = 10_000  # each file of a dealt-out selector has a place for each
_TAKEN = ("work", "log", "shards")  # folders of an output


class Config(BaseModel):
    """A recipe: where rows come from, an ordered list of stages, filters and selectors, and where shards go."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    input: Reader
    output: str
    work: str
    stages: tuple[Stage | Filter | Selector, ...] = ()
    shards: Shards = Shards()
    release: Release | None = None
    guard: Guard = Guard()
    outputs: tuple[tuple[str, str], ...] = ()  # name and rule; see `outputs.py`
    cut_memory: int | None = None  # bytes; see `cut/database.py`
    cut_partitions: int | None = None  # see `cut/dealt.py`


def load_config(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Build a config from a file's path or from a dict of the same shape, which may hold paths as Path.

    `overrides` are "dotted.path=value" strings, values in YAML. `${NAME}` in a string is replaced from the environment.
    Raises ConfigError, one line, for whatever is wrong.
    """
    data = json.loads(json.dumps(source, default=os.fspath)) if isinstance(source, Mapping) else _parse(Path(source))
    for override in overrides:
        _override(data, override)
    return _build(_substitute(data))


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is meant: a key that stands twice in a mapping is a mistake, not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT002 - its contract
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error}") from None
    try:
        data = yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader; JSON is YAML too
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-99-99
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is a mapping with input, output and stages")
    return data


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: write it as dotted.path=value, for example stages.2.image_size=512")
    *parents, last = path.split(".")
    node: Any = data
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = yaml.safe_load(text)
        else:
            node[last] = yaml.safe_load(text)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        raise ConfigError(f"--set {override}: there is no such place in the config") from None


def _substitute(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _substitute(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_substitute(value) for value in node]
    return re.sub(r"\$\{(\w+)\}", _environment, node) if isinstance(node, str) else node


def _environment(match: re.Match[str]) -> str:
    try:
        return os.environ[match[1]]
    except KeyError:
        raise ConfigError(f"${{{match[1]}}}: the environment has no variable of this name") from None


def _build(data: dict[str, Any]) -> Config:
    unknown = set(data) - set(Config.model_fields)
    if unknown:
        name = min(map(str, unknown))
        raise ConfigError(f"{name}: a config has no such entry{suggestion(name, Config.model_fields)}")
    for name in ("input", "output"):
        if not data.get(name):
            raise ConfigError(f"{name}: missing; a config needs input, output and stages")
    for name in ("output", "work"):
        if not isinstance(data.get(name, ""), str):
            raise ConfigError(f"{name}: must be a path or a URL, not {data[name]!r}")
    listed = data.get("stages") or []
    if not isinstance(listed, list):
        raise ConfigError("stages: must be a list, each item with a `use:`")
    output = absolute(data["output"])
    return Config(
        input=build_entry(data["input"], "input", (Reader,)),
        output=output,
        work=absolute(data["work"]) if data.get("work") else f"{output.rstrip('/')}/work",
        stages=tuple(build_entry(item, f"stages[{i}]", (Stage, Filter, Selector)) for i, item in enumerate(listed)),
        shards=_validated(Shards, data.get("shards") or {}, "shards"),
        release=_validated(Release, data["release"], "release") if data.get("release") is not None else None,
        guard=_validated(Guard, data.get("guard") or {}, "guard"),
        outputs=_outputs(data.get("outputs") or {}),
        cut_memory=_bytes(data.get("cut_memory"), "cut_memory"),
        cut_partitions=_partitions(data.get("cut_partitions")),
    )


def _bytes(value: Any, place: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < _LEAST_BYTES):
        raise ConfigError(f"{place}: must be a number of bytes, at least {_LEAST_BYTES}, not {value!r}")
    return value


def _partitions(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST_PARTITIONS):
        raise ConfigError(f"cut_partitions: must be a number from 1 to {_MOST_PARTITIONS}, not {value!r}")
    return value


def _outputs(rules: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(rules, dict) or not all(isinstance(rule, str) for rule in rules.values()):
        raise ConfigError("outputs: must be a mapping of names and rules, such as {en: \"language = 'en'\"}")
    for name, rule in rules.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)) or name in _TAKEN:
            raise ConfigError(
                f"outputs: {name!r} is no name for a folder beside the work folder: letters, digits, '.', '-', '_'"
            )
        try:
            sql.columns_of(rule)
        except ConfigError as error:
            raise ConfigError(f"outputs.{name}: {error}") from None
    return tuple((str(name), rule) for name, rule in rules.items())


def build_entry(item: Any, place: str, kinds: tuple[type[Entry], ...]) -> Any:
    """The object that a config entry names. `place` is how messages call it."""
    if not isinstance(item, dict) or not isinstance(item.get("use"), str):
        raise ConfigError(f"{place}: must be a mapping with `use: NAME`, not {item!r}")
    cls = resolve(item["use"], place)
    if not issubclass(cls, kinds):
        wanted = "a reader (read.…)" if kinds == (Reader,) else "a stage, a filter or a selector"
        raise ConfigError(f"{place} ({item['use']}): this place needs {wanted}")
    return _validated(cls, item, f"{place} ({item['use']})")


M = TypeVar("M", bound=BaseModel)


def _validated(cls: type[M], item: Any, place: str) -> M:
    try:
        return cls.model_validate(item)
    except ValidationError as error:
        raise ConfigError(f"{place}: {_explain(cls, error)}") from None


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    known = [field.alias or name for name, field in cls.model_fields.items()]
    if first["type"] == "extra_forbidden":
        top = str(first["loc"][-1])
        if len(first["loc"]) > 1:
            return f"{where}: unknown parameter"
        return f"{top}: unknown parameter{suggestion(top, known)}"
    if first["type"] == "missing":
        return f"{where}: missing"
    message = first["msg"].removeprefix("Value error, ")
    problem = message[:1].lower() + message[1:]
    return f"{where}: {problem}, not {first['input']!r}" if where else problem


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or a list of what there is."""
    known = [k for k in known if k != "use"]
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"


def resolve(use: str, place: str = "use") -> type[Entry]:
    """The class that `use` names: the one contract class of a module under pairsift.stages, or of a module of the user's."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", use):
        raise ConfigError(f"{place}: use: {use!r} is not a module path such as score.clip_similarity")
    for name in (f"{_NAMESPACE}.{use}", use):
        if not _importable(name):
            continue
        found = _classes(name)
        if len(found) == 1:
            return found[0]
        if name == use:
            raise ConfigError(f"{place}: use: {use}: the module must define exactly one reader, stage, filter or selector")
    raise ConfigError(f"{place}: unknown stage {use!r}{suggestion(use, catalog())}")


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            return False
        raise ConfigError(f"use: {name}: cannot be imported: {error}") from None
    except ValueError:
        return False


def _classes(module_name: str) -> list[type[Entry]]:
    module = importlib.import_module(module_name)
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, _CONTRACTS)
        and value not in _CONTRACTS
        and not name.startswith("_")
        and value.__module__.startswith(module_name)
    ]


def catalog() -> list[str]:
    """Every `use:` that ships with pairsift. Imports what defines them; none of it imports a model library."""
    return sorted(_uses(stages.__path__, ""))


def _uses(paths: Iterable[str], prefix: str) -> Iterable[str]:
    """A package that is a stage itself (download, embed) is not looked into: its modules are its own affair."""
    for module in pkgutil.iter_modules(paths):
        use = prefix + module.name
        if (prefix or module.ispkg) and len(_classes(f"{_NAMESPACE}.{use}")) == 1:
            yield use
        elif module.ispkg:
            yield from _uses(importlib.import_module(f"{_NAMESPACE}.{use}").__path__, f"{use}.")
