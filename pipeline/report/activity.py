"""What a run is doing right now, or how the last one ended: read off its lock and its log."""

from dataclasses import asdict, dataclass
from typing import Any

from pairsift.pipeline.control.lock import holder
from pairsift.pipeline.control.stopping import Interrupted
from pairsift.pipeline.report.log import last_log
from pairsift.stages.storage import Folder


@dataclass
class Activity:
    """`state`: running, stopped (it said why), died (it was killed), ended (well), none (there was no run yet)."""

    state: str
    host: str | None = None
    pid: int | None = None
    since: str | None = None  # of the run's start, ISO 8601
    phase: str | None = None  # what is, or was, being done
    done: int | None = None
    total: int | None = None
    of: str | None = None  # rows, images
    per_second: float | None = None
    seconds_left: float | None = None  # of this phase, at that rate
    reason: str | None = None  # why it stopped

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """One line for people."""
        if self.state == "none":
            return "no run has begun here"
        who = f"process {self.pid} on {self.host}, since {self.since}"
        if self.state == "ended":
            return f"the last run ended well: {who}"
        at = ""
        if self.phase is not None:
            total = f" of {self.total:,}" if self.total else ""
            rate = f", {self.per_second:,.3g} {self.of}/s" if self.per_second else ""
            left = f", {self.seconds_left:,.0f} s to go" if self.seconds_left and self.state == "running" else ""
            at = f"; {self.phase}: {self.done or 0:,}{total} {self.of}{rate}{left}"
        if self.state == "running":
            return f"running: {who}{at}"
        how = f"was stopped ({self.reason})" if self.state == "stopped" else "was killed"
        first = "" if self.reason is None or self.reason.startswith(Interrupted.__name__) else "see to that, then "
        return f"the last run {how}: {who}{at}; {first}run the same command again to go on"


def activity(output: Folder) -> Activity:
    """Look at an output folder; nothing is disturbed."""
    held, events = holder(output), last_log(output)
    begun = next((event for event in events if event["event"] == "start"), None)
    if begun is None:
        found = Activity("running" if held else "none")
    else:
        found = Activity(_state(held, events), begun["host"], begun["pid"], begun["time"])
    if held:
        found.host, found.pid, found.since = held["host"], held["pid"], held["since"]
    for event in events:
        if event["event"] == "begin":
            found.phase, found.total, found.of = event["phase"], event["total"], event["of"]
            found.done = found.per_second = found.seconds_left = None
        elif event["event"] in ("progress", "end"):
            found.done, found.per_second = event["done"], event.get("per_second", found.per_second)
        elif event["event"] == "stopped":
            found.reason = event["by"]
    if found.per_second and found.total and found.done is not None:
        found.seconds_left = max(0.0, found.total - found.done) / found.per_second
    return found


def _state(held: dict[str, Any] | None, events: list[dict[str, Any]]) -> str:
    if held:
        return "running"
    return {"stopped": "stopped", "finished": "ended"}.get(events[-1]["event"], "died")
