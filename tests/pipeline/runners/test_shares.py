"""What a stage may do in all is divided by the number of workers that the runner starts."""

from collections.abc import Callable
from typing import Any

import pytest

from pairsift.pipeline.workers.span import Span, with_workers


@pytest.mark.parametrize(("runner", "workers"), [("local", 4), ("ray", 2)])
def test_the_limits_of_a_host_hold_for_the_whole_run(
    runner: str, workers: int, web: Any, listing: Callable[..., Any], curate: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    if runner == "ray":
        request.getfixturevalue("ray_session")
    web.delay = 0.1
    source = listing([(web.url(f"coffee.jpg?{i}"), "a cup") for i in range(24)], unit_rows=3)
    stage = {
        "use": "download",
        "image_size": 32,
        "allow_private_addresses": True,
        "per_host": {"concurrency": 4, "loopback": True},
        "resources": {"cpus": 0.5, "workers": workers},
    }
    results = curate(source, stage, runner=runner)
    assert results.report["kept"] == 24
    # The local runner has one worker, whatever `workers` says; on Ray each of the two gets half, whether they overlap or not.
    assert web.most_at_once() in ({4} if runner == "local" else {2, 3, 4})


def test_only_the_stages_of_the_span_are_told(captions: Callable[..., Any], curate: Callable[..., Any]) -> None:
    stages = [{"use": "pairsift_toys.broken", "as": name} for name in "ab"]
    plan = curate(captions(["x"]), {"use": "filter.where", "keep": "true"}, *stages).plan
    told = with_workers(Span(plan, 0, 2, horizon=3), 7).plan
    assert [step.stage.resources.workers for step in told.steps[1:]] == [7, None]
    assert [step.layer for step in told.steps] == [step.layer for step in plan.steps]
