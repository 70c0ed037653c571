"""The four contracts: `Reader`, `Stage`, `Filter`, `Selector`.

A config entry *is* the object: each is a frozen pydantic model whose fields are its parameters, and whose class docstring
is what `pairsift stages` prints. Scores never drop rows; filters never compute.

- Something wrong with a **row** is data: a code in the `failure` column (see `fates.Failure`).
- Something wrong with the **config** is a `ConfigError`: one line, before anything runs.
- Something wrong with the **program** is any other exception, and nobody swallows it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pairsift.stages.fates import Status

if TYPE_CHECKING:
    from pairsift.stages.exchange import Tasks, Written

Transform = Callable[[pa.Table], pa.Table | Awaitable[pa.Table]]
Columns = tuple[str, ...]


class ConfigError(Exception):
    """What the user asked for cannot be done. The message is one line: what is wrong, where, and what would be right."""


class OperationalMark:
    """Marks a parameter that does not change results, only how they are come by: it stays out of every fingerprint."""


OPERATIONAL = OperationalMark()


class Resources(BaseModel):
    """What one worker of a stage gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(1, gt=0, description="CPU cores per worker; also the number of threads a model may use")
    gpus: float = Field(0, ge=0, description="GPUs per worker")
    workers: int | tuple[int, int] | None = Field(None, description="how many workers: a number, [min, max], or as many as fit")
    memory: int | None = Field(None, gt=0, description="bytes of heap that the scheduler sets aside per worker")

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        low, high = value if isinstance(value, tuple) else (value, value)
        if low is not None and high is not None and not 1 <= low <= high:
            raise ValueError("must be a number from 1 on, or [min, max]")
        return value


class Source(BaseModel):
    """One input file as a listing shows it. `version` is its etag or modification time: with `size`, its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    size: int | None = None  # bytes; None where the file system does not tell
    version: str = ""


class Entry(BaseModel):
    """What every entry of a config has. Unknown parameters are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    use: str = Field("", description="module path under pairsift.stages, or a full path into a package of your own")

    def science(self) -> dict[str, Any]:
        """The parameters that results depend on, JSON-able: all but `use`, names, resources and what is marked OPERATIONAL."""
        fields = type(self).model_fields
        operational = {name for name, f in fields.items() if any(isinstance(m, OperationalMark) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=operational | {"use", "as_", "resources"})

    def check(self) -> None:
        """Looked at once before anything runs: raise `ConfigError` for what validation of single fields cannot see."""


class Reader(Entry, ABC):
    """Where rows come from."""

    version: ClassVar[int] = 1

    unit_rows: int = Field(1000, gt=0, description="rows per unit, the grain of work, retry and commit")

    @abstractmethod
    def sources(self) -> list[Source]:
        """The input files in reading order. Looks at listings only. Raises ConfigError where nothing is found."""

    @abstractmethod
    def schema(self) -> pa.Schema:  # type: ignore[override]  # hides a method that pydantic has deprecated
        """The columns that `read` gives. May look into the first source. Raises ConfigError for a missing column."""

    @abstractmethod
    def read(self, source: Source) -> Iterator[pa.Table]:
        """Stream one source's rows in order, in tables of any length, each with the columns of `schema()`.

        A row that cannot be read is still given, with nulls, and with a code in the optional columns `failure` and
        `failure_detail`. No row is ever left out.

        Images are given as references. Only where no byte range can be cited (compressed files), the columns `image` and
        `image_format` give their bytes; these are copied into payloads.
        """


class Stage(Entry, ABC):
    """Row-local work: columns in, more columns out. Raise `version` when results change."""

    version: ClassVar[int] = 1
    batch_rows: ClassVar[int] = 256  # most rows per sub-batch

    as_: str | None = Field(
        None, alias="as", pattern=r"^[a-z][a-z0-9_]*$", description="prefix for this stage's columns, where it is used twice"
    )
    resources: Annotated[Resources, OPERATIONAL] = Field(Resources(), description="cpus, gpus, workers, memory")

    @abstractmethod
    def reads(self) -> Columns:
        """Columns it needs. "image" means the encoded bytes (large_binary). These decide what its results depend on."""

    @abstractmethod
    def writes(self) -> pa.Schema:
        """Columns it adds, without the prefix of `as`."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Transform]:
        """Once per worker: load the model, open the session; yields the batch function.

        The batch function gets a table with `ordinal` and the columns of `reads()`: rows that are still alive, at least
        one, at most `batch_rows`. It returns only the columns of `writes()`, same rows, same order; and, if it likes,
        `failure` and `failure_detail`. It may be async; it is never called from two threads at once unless it is.
        """

    def identity(self) -> str:
        """What results depend on beside parameters: a checkpoint's commit or hash. Part of the fingerprint."""
        return ""

    def notice(self) -> str | None:
        """One line that is said whenever this stage runs, or None."""
        return None


class Filter(Entry, ABC):
    """Keeps or rejects each row by its columns. Never computes: a SQL predicate over what stages wrote."""

    name: str | None = Field(None, description="how fates and the funnel call this rule; default: what it says")

    @abstractmethod
    def reads(self) -> Columns:
        """Columns the predicate names."""

    @abstractmethod
    def predicate(self) -> str:
        """A DuckDB boolean expression over `reads()`. Null counts as false."""

    def score(self) -> str | None:
        """A DuckDB numeric expression that says how near a row came, or None."""
        return None

    def label(self) -> str:
        return self.name or self.predicate()


@dataclass(frozen=True)
class Round:
    """One look at all rows that ends in a small table. Both are DuckDB SELECTs."""

    part: str  # over the table `rows`, of each part or partition by itself; later rounds also see `summary`
    whole: str  # over the table `found`, what all of them gave; later rounds also see `summary`. It makes the next `summary`


@dataclass(frozen=True)
class Shares:
    """How a selector's work is dealt out to processes none of which sees all rows. All of it is DuckDB SQL.

    Rows stay in the parts of the input where they are, or they meet by `key`. After the rounds, `decide` says in each part or
    partition who goes. Where several partitions take the same row out, its smallest score is noted.
    """

    decide: str  # a SELECT like `reduce()`, over `rows` of one part or partition, and `summary` if there are rounds
    rows: str = 'SELECT * FROM "rows"'  # what of a part's rows is needed; `ordinal` has to be in it
    key: tuple[str, ...] = ()  # expressions over that: rows that agree in all go to one partition; empty: no row is moved
    rounds: tuple[Round, ...] = ()


class Selector(Entry, ABC):
    """A rule over the whole dataset: dedup, top fraction, balance. Written as key → partition → reduce.

    `reduce()` must give the same union of rows when run on all rows at once and when run on each hash partition by
    `key()` by itself, so that a cluster can partition what does not fit one machine.
    """

    status: ClassVar[Status] = Status.REJECTED

    name: str | None = Field(None, description="how fates and the funnel call this rule; default: what it says")

    @abstractmethod
    def reads(self) -> Columns:
        """Columns that `key()` and `reduce()` name."""

    @abstractmethod
    def key(self) -> tuple[str, ...]:
        """DuckDB expressions: rows that agree in all of them are reduced together. Empty: all rows together."""

    @abstractmethod
    def reduce(self) -> str:
        """A DuckDB SELECT over the table `rows` (ordinal, generation, and `reads()`; only rows still alive) that gives the
        rows that go: (ordinal BIGINT, duplicate_of BIGINT or null: the keeper's ordinal, score DOUBLE or null)."""

    def shares(self) -> Shares | None:
        """How the work is dealt out; None: one process needs all rows. The same rows go as by `reduce()` over all of them."""
        return Shares(self.reduce(), key=self.key()) if self.key() else None

    def label(self) -> str:
        return self.name or self.use


@dataclass(frozen=True)
class Scratch:
    """What a `Finder` may use while it works."""

    folder: str  # an empty folder on a local disk; it is removed afterwards
    memory: int  # bytes
    check: Callable[[], None] = lambda: None  # raises when the run is to stop: to be called every second or so


class Finder(Selector):
    """A selector whose answer is no query: neighbours in Hamming distance, clusters of vectors.

    `find` runs in one process, over all rows that are alive. Its answer is the same in any order of rows, and on any number of
    workers or threads.
    """

    @abstractmethod
    def find(self, rows: pa.RecordBatchReader, scratch: Scratch) -> pa.Table:
        """The rows that go, each once: ordinal int64; duplicate_of int64, the ordinal of a row that stays, or null; score
        double or null.

        `rows` has ordinal, generation and `reads()`, types as in the layers, batches of any length. Raises ConfigError for a
        column that is not what it has to be.
        """

    dealable: ClassVar[bool] = False  # whether there is a `deal`

    def deal(self, tasks: "Tasks") -> Iterable["Written | None"]:
        """The same answer, found by tasks none of which sees all rows, as files of verdicts (`Desk.write`)."""
        raise NotImplementedError

    def key(self) -> tuple[str, ...]:
        return ()

    def reduce(self) -> str:
        """`found` is what `find` gave."""
        return "SELECT ordinal, duplicate_of, score FROM found"
