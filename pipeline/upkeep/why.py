"""Why is a row where it is? What came in, what each step said, and where that put it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairsift.pipeline.ledger.layers import Layer
from pairsift.pipeline.ledger.tombstones import Tombstones
from pairsift.pipeline.pack.sample import plain
from pairsift.pipeline.plan import Plan, Step
from pairsift.pipeline.report.manifest import read_json
from pairsift.pipeline.report.survey import output_config
from pairsift.pipeline.results import Results
from pairsift.pipeline.upkeep import tables
from pairsift.pipeline.upkeep.rows import Row, Rows
from pairsift.stages import sql
from pairsift.stages.base import Filter, Selector
from pairsift.stages.fates import Failure, Status

MOST = 20  # rows told of, where more match
_REMOVED = "removed on request: it has a tombstone"
_NOT_TOLD = {"ordinal", "failure", "failure_detail"}


@dataclass
class Said:
    """What one step said of a row. `outcome`: wrote, failed, passed, took, waits, open (a selector that has yet to see all)."""

    step: str
    outcome: str
    text: str
    values: Row = field(default_factory=dict)  # columns that a stage wrote, or that a filter looked at


@dataclass
class Story:
    """All that is known of one row. `fate` is None while it is open, else fates.parquet's line."""

    ordinal: int
    key: str
    uid: str
    generation: int
    sources: list[str]
    came_in: Row
    steps: list[Said]
    verdict: str
    fate: Row | None

    def as_dict(self) -> Row:
        return dict(plain(asdict(self)))


def why(output: str, wanted: str) -> list[Story]:
    """The stories of the rows whose URL, key or uid is `wanted`, in order, at most MOST; none where there is no such row.

    Works while a run goes on, and with what a stopped one left. Raises ConfigError where `output` is none.
    """
    rows = Rows(Results(output_config(output)).plan)
    teller = _Teller(rows)
    fates = rows.fates("url = $1 OR uid = $1 OR key = $1", [wanted], MOST)
    if wanted.isdigit() and not fates:
        key = f"{int(wanted):09d}"
        fates = rows.fates("key = $1", [key], MOST)
        wanted = wanted if fates else key
    stories = [teller.tell(fate["ordinal"], fate) for fate in fates]
    return stories + [teller.tell(ordinal, None) for ordinal in rows.without_fates(wanted, MOST - len(stories))]


class _Teller:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._plan: Plan = rows.plan
        run = read_json(rows.output, "run.json") or {}
        self._published = run.get("cut") == self._plan.cut_fingerprint() and run.get("limit") is None
        self._tombstones = Tombstones.load(rows.ledger.work)

    def tell(self, ordinal: int, fate: Row | None) -> Story:
        came_in = self._rows.in_layer(self._plan.intake, ordinal)
        if came_in is None:
            raise OSError(f"{self._rows.ledger.work.uri}: row {ordinal} of the input layer is missing; see `pairsift check`")
        generation = self._rows.generation_of(ordinal)
        fate = fate if self._published else None
        steps, end = self._walk(ordinal, came_in, fate)
        return Story(
            ordinal=ordinal,
            key=came_in["key"],
            uid=came_in["uid"],
            generation=generation.number,
            sources=[source.uri for source in self._rows.generation_of(self._rows.first_ordinal(ordinal)).sources],
            came_in={name: value for name, value in came_in.items() if name not in {*_NOT_TOLD, "key", "uid"}},
            steps=steps,
            verdict=self._verdict(fate, came_in) if fate else end,
            fate=fate,
        )

    def _walk(self, ordinal: int, came_in: Row, fate: Row | None) -> tuple[list[Said], str]:
        """What each step said until one ended the row, and how things stand where there is no fate yet."""
        known = dict(came_in)
        said: list[Said] = []
        if self._is_removed(came_in) or (fate and fate["status"] == Status.REMOVED.value):
            return said, _REMOVED
        if came_in["failure"]:
            return [_failed("read", came_in)], f"could not be read: {_code(came_in)}"
        undecided = ""
        for step in self._plan.steps:
            told = self._step(step, ordinal, known, fate)
            said.append(told)
            if told.outcome in ("took", "failed", "waits"):
                return said, f"{undecided}{_END[told.outcome]} {step.label}"
            if told.outcome == "open":
                undecided = f"if {step.label} lets it pass: "
        return said, f"{undecided}alive: nothing has taken it out; the next run decides on its shard"

    def _step(self, step: Step, ordinal: int, known: Row, fate: Row | None) -> Said:
        if isinstance(step.entry, Filter):
            return self._filter(step, known)
        if isinstance(step.entry, Selector):
            return self._selector(step, known, fate)
        assert step.layer is not None
        row = self._rows.in_layer(step.layer, ordinal)
        if row is None:
            return Said(step.label, "waits", "has not come to it yet")
        if row["failure"]:
            return _failed(step.label, row)
        written = {name: row[name] for name in step.layer.columns}
        known.update(written)
        if self._is_removed(written):
            return Said(step.label, "took", "removed on request: its body's hash has a tombstone", written)
        return Said(step.label, "wrote", "", written)

    def _is_removed(self, row: Row) -> bool:
        columns = {name: [row[name]] for name, _ in self._tombstones.columns(row)}
        return bool(columns) and bool(self._tombstones.mask(pa.table(columns, _strings(columns)))[0])

    def _filter(self, step: Step, known: Row) -> Said:
        assert isinstance(step.entry, Filter)
        looked = {name: known[name] for name in step.entry.reads()}
        table = _typed(self._plan, looked)
        passed = bool(sql.evaluate(step.entry.predicate(), table)[0].as_py())
        what = f"{step.entry.predicate()} is {'true' if passed else 'not true'}"
        score = step.entry.score()
        if score and score not in looked:
            value = _evaluated(score, table)
            what += f": {score} = {value}"
        return Said(step.label, "passed" if passed else "took", what, looked)

    def _selector(self, step: Step, known: Row, fate: Row | None) -> Said:
        looked = {name: known[name] for name in step.entry.reads() if name in known}
        if fate is None:
            return Said(step.label, "open", "looks at all rows: not decided before all have come so far", looked)
        if fate["rejected_by"] != step.label:
            return Said(step.label, "passed", "", looked)
        text = "took it" if fate["score"] is None else f"took it, at {fate['score']}"
        if fate["duplicate_of"]:
            text = f"a duplicate of {fate['duplicate_of']}{self._keeper(fate['duplicate_of'])}"
        return Said(step.label, "took", text, looked)

    def _keeper(self, key: str) -> str:
        found = self._rows.fates("key = $1", [key], 1)
        if not found:
            return ""
        where = f"in shard {found[0]['shard']}" if found[0]["shard"] else found[0]["status"]
        return f" ({found[0]['url']}, {where})" if found[0]["url"] else f" ({where})"

    def _verdict(self, fate: Row, came_in: Row) -> str:
        if fate["status"] == Status.REMOVED.value:
            return _REMOVED
        if fate["status"] == Status.SUCCESS.value and fate["shard"]:
            return self._place(fate, came_in)
        words = [fate["status"], fate["code"], fate["error_message"], fate["rejected_by"] and f"by {fate['rejected_by']}"]
        return ": ".join(word for word in words if word)

    def _place(self, fate: Row, came_in: Row) -> str:
        """Where a kept row lies. It may have another key there."""
        name, key = fate["shard"], came_in["key"]
        if not self._rows.output.exists(f"shards/{name}_stats.json"):
            return f"kept, for shards/{name}.tar as {key}; that shard is not written yet"
        if self._plan.config.shards.lists_all or self._plan.config.shards.keys != "ordinal":
            listed = tables.read_table(self._rows.output, f"shards/{name}.parquet", ["key", "uid"])
            listed = listed.filter(pc.equal(listed["uid"], came_in["uid"]))
            key = next(iter(listed["key"].to_pylist()), key)
        return f"kept: {self._rows.output.path(f'shards/{name}.tar')} as {key}"


_END = {"took": "the next cut takes it out by", "failed": "failed at", "waits": "waits for"}


def _failed(step: str, row: Row) -> Said:
    failure = Failure(row["failure"])
    again = "this may pass: --retry-failed asks again" if failure.transient else "asking again is not expected to help"
    return Said(step, "failed", f"{_code(row)} ({again})", {"failure": row["failure"], "transient": failure.transient})


def _code(row: Row) -> str:
    detail = f": {row['failure_detail']}" if row["failure_detail"] else ""
    return f"{row['failure']}, {Failure(row['failure']).text}{detail}"


def _strings(columns: Row) -> pa.Schema:
    return pa.schema([pa.field(name, pa.string()) for name in columns])


def _typed(plan: Plan, row: Row) -> pa.Table:
    """One row, with the types that its layers have."""
    layers: dict[str, Layer] = {name: plan.layer_of(name) for name in row}
    fields = [layer.schema.field(name) for name, layer in layers.items()]
    return pa.table([pa.array([row[f.name]], f.type) for f in fields], schema=pa.schema(fields))


def _evaluated(expression: str, table: pa.Table) -> Any:
    with sql.connect() as con:
        con.register("rows", table)
        found = con.execute(f"SELECT TRY(CAST((\n{expression}\n) AS VARCHAR)) FROM rows").fetchone()
    return found[0] if found else None
