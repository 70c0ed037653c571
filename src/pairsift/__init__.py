"""Curate web-scale image-text pairs, and say what became of every row.

import pairsift

results = pairsift.run("recipe.yaml", overrides=["output=out"])   # a path, or a dict of the same shape
results.report["kept"]
results.fates()                                        # pyarrow.Table: one row per input row
results.sql("SELECT status, count(*) FROM fates GROUP BY status")   # DuckDB; `ledger` has every column ever computed
pairsift.open("out")                                   # an output that is there already
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pairsift import _allocator as _allocator  # before anything that imports pyarrow
from pairsift.pipeline.config import Config, load_config
from pairsift.pipeline.control.guard import GuardError
from pairsift.pipeline.control.stopping import Interrupted, Stop
from pairsift.pipeline.outputs import configs_of
from pairsift.pipeline.report.survey import output_config
from pairsift.pipeline.results import Results
from pairsift.pipeline.run import Options
from pairsift.pipeline.run import run as _run
from pairsift.stages.base import ConfigError

__all__ = ["Config", "ConfigError", "GuardError", "Interrupted", "Results", "Stop", "load_config", "open", "run"]


def run(
    config: Config | str | Path | Mapping[str, Any],
    *,
    overrides: Iterable[str] = (),
    runner: str = "ray",
    ray_address: str | None = None,
    limit: int | None = None,
    replace: bool = False,
    retry_failed: bool = False,
    stop: Stop | None = None,
) -> Results:
    """Do what a config says, or what is left of it, and return the results.

    `config` is a file's path, a dict of the same shape, or a Config; `overrides` are "dotted.path=value" strings.
    `runner` is "ray" (a cluster, or all cores) or "local" (this process). `limit` takes only the first so many rows.
    `replace` lets published shards be rewritten. `retry_failed` tries rows again that failed for a reason that may have passed
    (a timeout, a 503), as a new generation. `stop` can be asked for from any thread. Where the config names `outputs`, the
    results have those: `results.outputs["en"].fates()`.

    Raises:
        ConfigError: before anything runs, for whatever is wrong with the config or the input; and where another run holds the
            output or the work folder.
        Interrupted: some seconds after `stop` was asked for.
        GuardError: nearly nothing comes through; see `guard` in the config.
    """
    loaded = config if isinstance(config, Config) else load_config(config, overrides)
    options = Options(runner, ray_address, limit, replace, retry_failed)
    for one in configs_of(loaded):
        _run(one, options, stop=stop)
        options = options.of_the_next_output()
    return Results(loaded)


def open(output: str | Path) -> Results:  # noqa: A001 - pairsift.open reads well, and nobody imports it by its bare name
    """The results of an earlier run, by its output folder. Raises ConfigError where there is none."""
    return Results(output_config(str(output)))
