"""What an output says of itself: `cut.json` (whose it is), `run.json` (what was done)."""

import importlib.metadata
import json
import platform
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pairsift.pipeline.config import Config
from pairsift.pipeline.plan import Plan
from pairsift.pipeline.report.funnel import Funnel
from pairsift.pipeline.workers.reports import StageReport, UnitReport
from pairsift.stages.base import ConfigError, Stage
from pairsift.stages.storage import Folder

_PACKAGES = ("pairsift", "pyarrow", "duckdb", "ray", "torch", "transformers", "opencv-python-headless", "httptools")


def claim(output: Folder, plan: Plan, limit: int | None, replace: bool) -> None:
    """State in `cut.json` which cut this output holds. Published shards are not rewritten unless `replace` says so.

    Raises ConfigError where the output holds another input's run, or another cut and `replace` is not set.
    """
    if (why := replaced(output, plan, limit)) and not replace:
        raise ConfigError(
            f"{output.uri}: {why}; `--replace` rewrites what changes; or name another `output` (with the same `work`, nothing "
            "is downloaded or computed again)"
        )
    mine = {
        "cut": plan.cut_fingerprint(),
        "limit": limit,
        "input": plan.intake.name,
        "work": _inside(plan.config.work, output.uri),
        "config": {**dump(plan.config), "output": ".", "work": _inside(plan.config.work, output.uri)},
    }
    output.write("cut.json", json.dumps(mine, indent=1, sort_keys=True).encode())


def replaced(output: Folder, plan: Plan, limit: int | None) -> str | None:
    """Why the published shards of this output are not of this cut, so that a run needs `--replace`; None where it does not.

    Raises ConfigError where the output holds another input's run.
    """
    theirs = read_json(output, "cut.json")
    if theirs is None:
        return None
    if (theirs["input"], theirs["work"]) != (plan.intake.name, _inside(plan.config.work, output.uri)):
        raise ConfigError(
            f"{output.uri}: holds the run of another input ({theirs['work']}); name another `output`, or remove this one"
        )
    if theirs["limit"] is not None or not output.exists("run.json"):
        return None
    if theirs["cut"] != plan.cut_fingerprint():
        return "its published shards were cut by another config"
    return None if limit is None else "its published shards are of all rows, without --limit"


def _inside(work: str, output: str) -> str:
    """The work folder relative to the output where it lies inside, so that the two can be moved together."""
    return work.removeprefix(f"{output}/")


def dump(config: Config) -> dict[str, Any]:
    """The config as it can be written to a file and loaded again."""
    return {
        "input": config.input.model_dump(mode="json", by_alias=True),
        "output": config.output,
        "work": config.work,
        "stages": [entry.model_dump(mode="json", by_alias=True) for entry in config.stages],
        "shards": config.shards.model_dump(mode="json"),
        "guard": config.guard.model_dump(mode="json"),
        **({"release": config.release.model_dump(mode="json")} if config.release else {}),
        **({"outputs": dict(config.outputs)} if config.outputs else {}),
    }


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """A JSON object of ours, or None where there is none. Raises OSError for a damaged one."""
    try:
        data = json.loads(folder.read(name))
    except FileNotFoundError:
        return None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise OSError(f"{folder.path(name)}: damaged: it is no JSON object; `pairsift check` says what to do")
    return data


@dataclass
class Tally:
    """Adds up unit reports while a run goes on."""

    stages: dict[str, StageReport] = field(default_factory=dict)
    _images: list[tuple[float, int]] = field(default_factory=list)  # (when a unit was downloaded, images it brought)
    began: float = field(default_factory=time.monotonic)

    def add(self, report: UnitReport, image_layers: set[str]) -> None:
        for name, done in report.stages.items():
            self.stages.setdefault(name, StageReport()).add(done)
            if name in image_layers:
                self._images.append((done.ended, done.computed - done.failed))

    def images_per_second(self) -> float | None:
        """The steady rate, from the end of the first unit's download to the last's; None with fewer than two units."""
        images = sorted(self._images)
        if len(images) < 2 or images[-1][0] <= images[0][0]:
            return None
        return sum(count for _, count in images[1:]) / (images[-1][0] - images[0][0])


def write_run(
    output: Folder, plan: Plan, funnel: Funnel, tally: Tally, shards_written: int, limit: int | None
) -> dict[str, Any]:
    """Write run.json and return what it says. Its counts add up to `rows`."""
    rejected: dict[str, int] = {}
    failures: Counter[str] = Counter()
    for loss in funnel.losses:
        if loss.rule:  # two rules may have one name
            rejected[loss.step] = rejected.get(loss.step, 0) + loss.rows
        else:
            failures.update(loss.reasons)
    stages = [step for step in plan.steps if step.layer]
    done = {step.label: tally.stages.get(step.layer.name, StageReport()) for step in stages if step.layer}
    models = {step.label: step.stage.identity() for step in stages if isinstance(step.entry, Stage) and step.stage.identity()}
    data = {
        "rows": funnel.rows,
        "limit": limit,
        "kept": funnel.kept,
        "held": funnel.held,
        "shards": funnel.shards,
        "counts": funnel.statuses(),
        "failures": dict(sorted(failures.items())),
        "rejected": rejected,
        "seconds": round(time.monotonic() - tally.began, 3),
        "seconds_per_stage": {name: round(report.seconds, 3) for name, report in done.items()},
        "rows_computed": {name: report.computed for name, report in done.items()},
        "failed": {name: report.failed for name, report in done.items()},
        "counted": {name: report.counts for name, report in done.items() if report.counts},
        "bytes_written": {name: report.bytes for name, report in done.items()},
        "shards_written": shards_written,
        "images_per_second": tally.images_per_second(),
        "cut": plan.cut_fingerprint(),
        "layers": {step.label: step.layer.name for step in stages if step.layer},
        "models": models,
        "versions": {"python": platform.python_version(), **_versions()},
        "config": dump(plan.config),
    }
    output.write("run.json", json.dumps(data, indent=1).encode())
    return data


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
