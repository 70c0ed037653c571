"""The `pairsift` command."""

import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from pairsift.pipeline.cli import download as cli_download
from pairsift.pipeline.cli import show
from pairsift.pipeline.cli import upkeep as cli_upkeep
from pairsift.pipeline.config import Config, catalog, load_config, resolve
from pairsift.pipeline.control.guard import GuardError, is_partial
from pairsift.pipeline.control.stopping import GO_ON, Interrupted, SignalStop
from pairsift.pipeline.outputs import configs_of
from pairsift.pipeline.report.activity import activity
from pairsift.pipeline.report.progress import OnTerminal
from pairsift.pipeline.report.survey import output_config, survey
from pairsift.pipeline.run import Options, Outcome
from pairsift.pipeline.run import run as run_config
from pairsift.stages.base import ConfigError, Filter, Reader, Selector
from pairsift.stages.storage import Folder

DONE, FAILED, BAD_CONFIG, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 4  # exit codes

app = typer.Typer(
    help="Curate image-text pairs: URL lists or datasets in; filtered, de-duplicated webdataset shards out; "
    "a fate for every row.",
    epilog="Start with `pairsift demo`. Then copy configs/quickstart.yaml, point it at your URLs, and `pairsift plan` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A recipe, YAML or JSON.", show_default=False)]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. stages.2.image_size=512.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many input rows.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit.isdigit():
        number, unit = text, "s"
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    except (KeyError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise typer.BadParameter(f"{text!r}: write it as 90s, 30m, 12h or 2d")
    return seconds


@app.command()
def run(
    config: ConfigPath,
    sets: Sets = None,
    runner: Annotated[str, typer.Option(help="ray: a cluster or all cores of this machine; local: this process.")] = "ray",
    ray_address: Annotated[str | None, typer.Option(help="A cluster to join; default: RAY_ADDRESS, else this machine.")] = None,
    limit: Limit = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Rewrite published shards that another config would fill otherwise.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try rows again that failed for a reason that may have passed.")
    ] = False,
    max_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop cleanly after 90s, 30m, 12h, 2d.", parser=_seconds, show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Do what a config says, or what is left of it: download, compute, filter, pack.

    Run it again after a stop, or after a change: what is done is not done again. Exit codes: 0 done, 1 failed, 2 bad
    config or input, 3 done, but more rows failed than `guard.partial` allows, 4 interrupted (Ctrl-C, SIGTERM, --max-time).
    """
    options = Options(runner, ray_address, limit, replace, retry_failed)
    _finish(load_config(config, sets or ()), options, as_json, cast("float | None", max_time))


def _finish(config: Config, options: Options, as_json: bool, max_seconds: float | None = None) -> None:
    """Run it, and show what came of it: for each of its outputs, where it names some."""
    stop = SignalStop(INTERRUPTED, max_seconds)
    stop.listen()
    outcomes: dict[str, Outcome] = {}
    try:
        for one in configs_of(config):
            outcomes[one.output] = outcome = run_config(one, options, OnTerminal(), stop)
            options = options.of_the_next_output()
            if not as_json:
                show.funnel(console, outcome.funnel)
                show.where(console, outcome)
    except Interrupted as error:
        _say(f"stopped: {error}; {GO_ON}")
        stop.leave()
    except GuardError as error:
        _complain(str(error), FAILED)
    stop.over()
    if as_json:
        reports = {output.removeprefix(f"{config.output}/"): outcome.report for output, outcome in outcomes.items()}
        print(json.dumps(reports if config.outputs else reports[config.output], indent=1))
    if any(is_partial(config.guard, outcome.funnel) for outcome in outcomes.values()):
        _complain(f"more than {config.guard.partial:.0%} of the rows failed (guard.partial)", PARTIAL)


@app.command()
def plan(config: ConfigPath, sets: Sets = None, limit: Limit = None, as_json: AsJson = False) -> None:
    """Say what a run would do: its stages, their columns, what is done and what will be computed. Runs nothing."""
    _survey(load_config(config, sets or ()), limit, as_json)


@app.command()
def status(
    path: Annotated[
        Path, typer.Argument(metavar="OUTPUT|CONFIG", help="An output folder, or the config that made it.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a run is doing, how the last one ended, and how far an output has come."""
    config = output_config(str(path)) if path.is_dir() or "://" in str(path) else load_config(path)
    _survey(config, None, as_json, with_activity=True)


def _survey(config: Config, limit: int | None, as_json: bool, *, with_activity: bool = False) -> None:
    described = {}
    for one in configs_of(config):
        found = survey(one, limit)
        doing = activity(Folder(one.output)) if with_activity else None
        described[one.output] = {**found.as_dict(), **({"activity": doing.as_dict()} if doing else {})}
        if as_json:
            continue
        if doing:
            console.print(doing.sentence(), markup=False, soft_wrap=True)
        show.survey(console, found)
    if as_json:
        by_name = {output.removeprefix(f"{config.output}/"): data for output, data in described.items()}
        print(json.dumps(by_name if config.outputs else described[config.output], indent=1))


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="One of them, e.g. download.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """List every reader, stage, filter and selector; or the parameters of one."""
    described = [_describe(use) for use in ([name] if name else catalog())]
    if as_json:
        print(json.dumps(described, indent=1))
    elif name:
        _show_stage(described[0])
    else:
        table = Table("use", "kind", "what it does", box=None, header_style="bold")
        for item in described:
            table.add_row(item["use"], item["kind"], escape(item["summary"]))
        console.print(table)
        console.print("\n`pairsift stages NAME` lists the parameters of one.")


def _describe(use: str) -> dict[str, Any]:
    cls = resolve(use, "stages")
    kind = next((n for n, c in (("reader", Reader), ("filter", Filter), ("selector", Selector)) if issubclass(cls, c)), "stage")
    doc = inspect.cleandoc(cls.__doc__ or "")
    parameters = [
        {
            "name": field.alias or name,
            "type": _type(field.annotation),
            "default": None if field.is_required() else _default(field.get_default(call_default_factory=True)),
            "required": field.is_required(),
            "text": field.description or "",
        }
        for name, field in cls.model_fields.items()
        if name != "use"
    ]
    return {"use": use, "kind": kind, "summary": doc.split("\n")[0], "text": doc, "parameters": parameters}


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_type(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if annotation is type(None):
        return "null"
    return str(annotation) if typing.get_origin(annotation) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _show_stage(item: dict[str, Any]) -> None:
    console.print(f"[bold]{item['use']}[/bold] ({item['kind']})\n\n{escape(item['text'])}\n")
    for p in item["parameters"]:
        default = "(required)" if p["required"] else f"= {json.dumps(p['default'])}"
        console.print(f"  [bold]{p['name']}[/bold]  {escape(p['type'])}  {escape(default)}")
        console.print(Padding(escape(p["text"]), (0, 0, 0, 6)))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put it; an earlier demo there is replaced.")] = Path("pairsift-demo"),
    runner: Annotated[str, typer.Option(help="ray or local.")] = "ray",
) -> None:
    """See the whole thing work in a minute: real photos over HTTP, planted faults and wrong captions, shards out."""
    from pairsift.pipeline.demo import demo as run_demo

    with _interruptible():
        run_demo(folder, runner, console)


cli_download.register(app, _finish)
cli_upkeep.register(app)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a stack trace."""
    try:
        app(prog_name="pairsift", standalone_mode=True)
    except ConfigError as error:
        _complain(str(error), BAD_CONFIG)
    except OSError as error:
        _complain(str(error), FAILED)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _complain(f"interrupted; {GO_ON}", INTERRUPTED)


def _complain(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    print(f"pairsift: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
