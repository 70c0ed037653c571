"""Tables for people: the funnel, a survey, where things are. Whatever comes from the data is escaped."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pairsift.pipeline.report.funnel import Funnel, Loss
from pairsift.pipeline.report.survey import Survey
from pairsift.pipeline.run import Outcome

_BAR = 16  # characters for all input rows


def funnel(console: Console, found: Funnel) -> None:
    """One line per step: what it took out and why, and a bar of what is left."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("step", overflow="fold")
    table.add_column("lost", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=_BAR)
    table.add_column("why", overflow="fold")
    left = found.rows
    table.add_row("rows in", "", f"{left:,}", _bar(left, found.rows), "")
    for loss in found.losses:
        left -= loss.rows
        table.add_row(
            escape(loss.step), f"{loss.rows:,}" if loss.rows else "-", f"{left:,}", _bar(left, found.rows), _why(loss)
        )
    table.add_row(
        "[bold]kept[/bold]",
        "",
        f"[bold]{left:,}[/bold]",
        _bar(left, found.rows),
        f"in {found.shards:,} shards" if found.shards else "",
    )
    console.print(table)
    lost = sum(loss.rows for loss in found.losses)
    console.print(f"{found.rows:,} rows in = {found.kept:,} kept + {lost:,} lost")


def _why(loss: Loss) -> str:
    if loss.rule:
        return ""
    return escape(", ".join(f"{reason} {rows:,}" for reason, rows in loss.reasons.most_common()))


def _bar(rows: int, total: int) -> str:
    return "█" * round(_BAR * rows / total) if total else ""


def where(console: Console, outcome: Outcome) -> None:
    """Where the output lies, and how long it took."""
    config, report = outcome.plan.config, outcome.report
    places = {"shards": "shards" if outcome.plan.packs else None, "release": "release" if config.release else None}
    places["every row's fate"] = "fates.parquet"
    found = [f"{what}: {config.output}/{name}" for what, name in places.items() if name]
    console.print("   ".join(found), soft_wrap=True, markup=False)
    rate = report["images_per_second"]
    speed = f", {rate:,.0f} images/s downloaded" if rate else ""
    shards = f", {report['shards_written']:,} shards written" if outcome.plan.packs else ""
    console.print(f"{report['seconds']:.1f} s{shards}{speed}", markup=False)


def forecast(found: Survey) -> list[str]:
    """What a run would do, and why, a line each; all amounts are about."""
    lines = []
    for step in found.steps:
        if step.waiting:
            costs = []
            if step.bytes_waiting:
                costs.append(f"{_size(step.bytes_waiting)} of images")
            if step.seconds_waiting:
                costs.append(f"{step.seconds_waiting:,.0f} s in the stage over all workers")
            about = f", about {' and '.join(costs)}" if costs else ""
            lines.append(f"to compute: {step.waiting:,} rows at {step.label}{about}: {step.why}")
        if step.dealt:
            lines.append(f"{step.label}: {step.dealt}")
    if found.complete:
        lines.append("nothing waits to be computed")
    else:
        lines.append(
            "rows that wait at one stage may come on to wait at the next; which shards change is known when none waits"
        )
    if found.shards:
        shards = found.shards
        size = f", {_size(shards.bytes_to_write)}" if shards.to_write else ""
        lines.append(
            f"shards: {shards.wanted:,}, of which {shards.unchanged:,} are there; {shards.to_write:,} to write{size}, "
            f"{shards.to_remove:,} to remove"
        )
    if found.replaced:
        lines.append(f"a run is refused without --replace: {found.replaced}")
    lines += [f"free: {_size(free)} at {folder}" for folder, free in found.free.items()]
    return lines


def _size(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e8 else f"{number / 1e6:,.1f} MB"


def survey(console: Console, found: Survey) -> None:
    """The steps with what is done and what waits."""
    again = f", {found.tried_again:,} tried again" if found.tried_again else ""
    taken_in = f"{found.rows:,} rows taken in{again}, {found.units:,} units, {found.generations} generations"
    console.print(f"input: {taken_in}", markup=False)
    if found.new_sources:
        known = [source.size for source in found.new_sources if source.size is not None]
        console.print(f"to take in: {len(found.new_sources):,} files, {sum(known):,} bytes", markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column("step: what it reads → writes", overflow="fold")
    table.add_column("rows done", justify="right", no_wrap=True)
    table.add_column("rows waiting", justify="right", no_wrap=True)
    for step in found.steps:
        counts = ["" if n is None else f"{n:,}" for n in (step.done, step.waiting)]
        table.add_row(str(step.index), f"{escape(step.label)} [dim]({step.kind})[/dim]", *counts)
        writes = f" → {', '.join(step.writes)}" if step.writes else ""
        table.add_row("", f"  [dim]{escape(', '.join(step.reads) + writes)}[/dim]")
    console.print(table)
    for line in forecast(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"work: {found.work}   output: {found.output}", markup=False, soft_wrap=True)
    if found.report:
        console.print(
            f"last run: {found.report['rows']:,} rows, {found.report['kept']:,} kept, {found.report['shards']:,} shards",
            markup=False,
        )
