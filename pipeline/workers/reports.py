"""What a worker says of a unit when it has done it."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StageReport:
    """What one stage did for one unit."""

    computed: int = 0  # rows
    failed: int = 0  # rows, of those computed
    seconds: float = 0.0  # in the transform
    bytes: int = 0  # of images written
    ended: float = 0.0  # when it was done, in seconds since the epoch
    deaths: int = 0  # earlier attempts that never ended
    failures: dict[str, int] = field(default_factory=dict)  # rows by failure code
    counts: dict[str, int] = field(default_factory=dict)  # what the stage counted itself, such as retries

    def add(self, other: "StageReport") -> None:
        """Take another unit's figures in."""
        self.computed += other.computed
        self.failed += other.failed
        self.seconds += other.seconds
        self.bytes += other.bytes
        self.ended = max(self.ended, other.ended)
        self.deaths += other.deaths
        self.failures = dict(Counter(self.failures) + Counter(other.failures))
        self.counts = dict(Counter(self.counts) + Counter(other.counts))


@dataclass
class UnitReport:
    """What became of one unit in one chain; small enough to pass through the driver."""

    unit: int
    rows: int
    stages: dict[str, StageReport] = field(default_factory=dict)  # by layer name
    rules: dict[str, tuple[int, int]] = field(default_factory=dict)  # rows that each filter saw and took, by its label

    def as_dict(self) -> dict[str, Any]:
        """For the run log: only what is not nothing."""
        stages = {
            name: {key: value for key, value in asdict(stage).items() if value and key != "ended"}
            for name, stage in self.stages.items()
        }
        return {"unit": self.unit, "rows": self.rows, "stages": stages}
