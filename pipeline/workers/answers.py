"""What a stage answered, held against its contract."""

import pyarrow as pa

from pairsift.pipeline.plan import Step
from pairsift.stages import schema
from pairsift.stages.fates import Failure

_CODES = frozenset(failure.value for failure in Failure)


class ContractError(Exception):
    """A stage broke its contract: a fault of the program, not of a row."""


def checked(step: Step, batch: pa.Table, result: pa.Table) -> pa.Table:
    """A transform's answer with prefixed names and the two failure columns, or ContractError."""
    use = step.entry.use
    expected = step.stage.writes()
    if not isinstance(result, pa.Table):
        raise ContractError(f"{use} returned {type(result).__name__}, not a pyarrow.Table")
    if len(result) != len(batch):
        raise ContractError(f"{use} returned {len(result)} rows for {len(batch)}")
    extra = set(result.column_names) - set(expected.names) - {"failure", "failure_detail"}
    if extra:
        raise ContractError(f"{use} returned {min(extra)!r}, which its writes() does not name")
    for wanted in expected:
        if wanted.name not in result.column_names:
            raise ContractError(f"{use} did not return {wanted.name!r}, which its writes() names")
        if result.schema.field(wanted.name).type != wanted.type:
            got = result.schema.field(wanted.name).type
            raise ContractError(f"{use}: {wanted.name} is {got}, but its writes() says {wanted.type}")
    columns = [result[name] for name in expected.names]
    for optional in (schema.FAILURE, schema.FAILURE_DETAIL):
        given = optional.name in result.column_names
        columns.append(result[optional.name].cast(pa.string()) if given else pa.nulls(len(result), pa.string()))
    for code in set(columns[-2].to_pylist()) - {None}:
        if code not in _CODES:
            raise ContractError(f"{use}: failure {code!r} is not one of fates.Failure")
    return pa.table(columns, names=[*step.writes.names, "failure", "failure_detail"])


def counted(result: pa.Table) -> dict[str, int]:
    """What a transform counted while it worked, for the run log: numbers in its table's metadata, under "count.NAME"."""
    found = result.schema.metadata or {}
    return {key.decode().removeprefix("count."): int(value) for key, value in found.items() if key.startswith(b"count.")}
