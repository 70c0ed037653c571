"""`pairsift download`: img2dataset's flags, so that one word in a script changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from pairsift.pipeline.cli.img2dataset_flags import Flags, config_of, notes, options_of, prepare_output, read_flags
from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.plan import make_plan
from pairsift.pipeline.run import Options

_HELP = """Do what `img2dataset` does with the same flags: URLs in, webdataset shards out.

Flags are written as img2dataset takes them: `--url_list=x`, `--url_list x`, a bare `--resize_only_if_bigger`. What differs is
in docs/img2dataset.md. Run it again after a stop, and what is done is not done again.
"""


def register(app: typer.Typer, finish: Callable[[Config, Options, bool], None]) -> None:
    """Add the command to `app`. `finish` runs a config and shows what came of it: as JSON, or as tables."""

    @app.command(
        "download",
        help=_HELP,
        epilog="\n\n".join(map(_line, Flags.model_fields)),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def download(
        context: typer.Context,
        sets: Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the config that results.")
        ] = None,
        show_config: Annotated[bool, typer.Option("--show-config", help="Print that config, as JSON, and stop.")] = False,
        rewrite: Annotated[
            bool, typer.Option("--replace", help="Rewrite published shards that other flags would fill otherwise.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print run.json instead of tables.")] = False,
    ) -> None:
        flags = read_flags(context.args)
        config = config_of(flags)
        if show_config:
            typer.echo(json.dumps(config, indent=1))
            return
        loaded = load_config(config, sets or ())
        make_plan(loaded)  # a mistake is told before anything is removed
        for note in [*notes(flags), *prepare_output(flags, loaded)]:
            typer.echo(note, err=True)
        finish(loaded, replace(options_of(flags), replace=rewrite), as_json)


def _line(name: str) -> str:
    field = Flags.model_fields[name]
    default: Any = "required" if field.is_required() else field.get_default()
    return f"--{name} ({default}): {field.description}"
