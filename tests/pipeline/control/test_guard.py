from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairsift.pipeline.config import load_config
from pairsift.pipeline.control.guard import GuardError, Watch, is_partial
from pairsift.pipeline.report.funnel import Funnel, Loss
from pairsift.pipeline.run import Options, run
from pairsift.pipeline.sections import Guard
from pairsift.pipeline.workers.reports import StageReport, UnitReport


def report(rows: int, **failures: int) -> UnitReport:
    return UnitReport(0, rows, {"download-1": StageReport(computed=rows, failed=sum(failures.values()), failures=failures)})


def test_a_download_that_fails_for_nearly_all_is_stopped() -> None:
    watch = Watch(Guard(after=100), {"download-1": "download"})
    watch.add(report(90, dns_error=90))
    with pytest.raises(GuardError) as stopped:
        watch.add(report(90, dns_error=80, http_404=6))
    assert str(stopped.value).startswith("download: 97.8% of the first 180 rows failed, most of them (170) with dns_error")
    assert "network" in str(stopped.value)
    assert "--set guard.max_failed=1" in str(stopped.value)


def test_one_that_fails_for_many_is_not() -> None:
    watch = Watch(Guard(after=100), {})
    for _ in range(5):
        watch.add(report(100, timeout=94))
    Watch(Guard(after=100, max_failed=1), {}).add(report(100, timeout=100))


def test_a_rule_that_takes_nearly_all_is_stopped() -> None:
    watch = Watch(Guard(after=100, max_rejected=0.9), {})
    watch.add(UnitReport(0, 100, rules={"width >= 9000": (100, 90)}))
    with pytest.raises(GuardError, match=r"width >= 9000: takes 95.0% of 200 rows"):
        watch.add(UnitReport(1, 100, rules={"width >= 9000": (100, 100)}))


def test_the_whole_cut_is_judged_by_what_each_rule_was_left() -> None:
    losses = [Loss("download", False, 800, Counter(timeout=800)), Loss("top", True, 199, Counter(rejected=199))]
    funnel = Funnel(1000, losses, 1, 1)
    Watch(Guard(after=100), {}).judge(funnel)
    with pytest.raises(GuardError, match=r"top: takes 99.5% of 200 rows"):
        Watch(Guard(after=100, max_rejected=0.99), {}).judge(funnel)
    assert is_partial(Guard(partial=0.75), funnel)
    assert not is_partial(Guard(partial=0.8), funnel)


def test_a_run_is_stopped_before_it_publishes(tmp_path: Path, captions: Callable[..., dict[str, Any]]) -> None:
    config = {
        "input": captions([f"caption {i}" for i in range(2000)]),
        "output": str(tmp_path / "out"),
        "stages": [{"use": "filter.where", "keep": "length(caption) > 99"}],
    }
    with pytest.raises(GuardError, match=r"length\(caption\) > 99: takes 100.0% of 2,000 rows"):
        run(load_config(config), Options("local"))
    assert not (tmp_path / "out" / "fates.parquet").exists()
    outcome = run(load_config(config, ["guard.max_rejected=1"]), Options("local"))
    assert outcome.funnel.kept == 0
