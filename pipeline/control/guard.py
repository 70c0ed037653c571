"""Stops a run whose download or filter loses nearly everything: mostly a mistake, and found out at the first rows is cheap."""

from pairsift.pipeline.outputs import RULE
from pairsift.pipeline.report.funnel import Funnel
from pairsift.pipeline.sections import Guard
from pairsift.pipeline.workers.reports import StageReport, UnitReport
from pairsift.stages.fates import Failure

_LIKELY = {
    Failure.DNS_ERROR: "is this machine connected to the network, or its DNS server overloaded?",
    Failure.CONNECT_ERROR: "is this machine connected to the network, or behind a firewall that wants a `proxy`?",
    Failure.PRIVATE_ADDRESS: "servers of your own are reached with `allow_private_addresses`",
    Failure.HTTP_403: "do the hosts refuse this user agent or this network?",
    Failure.HTTP_429: "the hosts are asked too often: lower `per_host`",
    Failure.THROTTLED: "the hosts are asked too often: lower `per_host`",
    Failure.ROBOTS_DISALLOWED: "the hosts' robots.txt do not want this",
    Failure.NO_CONTACT: "hosts should know whom to ask: set `contact`",
    Failure.HTML_PAGE: "are these the URLs of pages, and not of images?",
    Failure.INVALID_URL: "is `columns.url` the column with the URLs?",
    Failure.UNSUPPORTED_SCHEME: "is `columns.url` the column with the URLs?",
    Failure.TOO_SMALL: "is `min_image_size` what you mean?",
    Failure.PROCESS_DIED: "do the workers have the memory that the stage needs?",
    Failure.DEVICE_LOST: "is a GPU broken? `nvidia-smi` and the system's log tell",
}


class GuardError(Exception):
    """A run was stopped because nearly nothing comes through; the message says where, why, and how to go on."""


class Watch:
    """Adds up what units report, and judges it."""

    def __init__(self, guard: Guard, labels: dict[str, str]) -> None:
        """`labels`: what the stage of each layer is called."""
        self._guard, self._labels = guard, labels
        self._stages: dict[str, StageReport] = {}
        self._rules: dict[str, tuple[int, int]] = {}

    def add(self, report: UnitReport) -> None:
        """Raises GuardError."""
        for name, done in report.stages.items():
            total = self._stages.setdefault(name, StageReport())
            total.add(done)
            self._judge_stage(self._labels.get(name, name), total)
        for rule, (seen, lost) in report.rules.items():
            before = self._rules.get(rule, (0, 0))
            self._rules[rule] = (before[0] + seen, before[1] + lost)
            self._judge_rule(rule, *self._rules[rule])

    def judge(self, funnel: Funnel) -> None:
        """What the whole cut came to. Raises GuardError."""
        left = funnel.rows
        for loss in funnel.losses:
            if loss.rule:
                self._judge_rule(loss.step, left, loss.rows)
            left -= loss.rows

    def _judge_stage(self, label: str, total: StageReport) -> None:
        if total.computed < self._guard.after or total.failed <= self._guard.max_failed * total.computed:
            return
        code, rows = max(total.failures.items(), key=lambda item: item[1])
        hint = _LIKELY.get(Failure(code), "")
        raise GuardError(
            f"{label}: {total.failed / total.computed:.1%} of the first {total.computed:,} rows failed, most of them "
            f"({rows:,}) with {code}, {Failure(code).text}{f' ({hint})' if hint else ''}; what is done is kept; "
            f"to go on all the same: --set guard.max_failed=1"
        )

    def _judge_rule(self, label: str, seen: int, lost: int) -> None:
        if label.startswith(RULE):  # another output may have the rest
            return
        if seen < self._guard.after or lost <= self._guard.max_rejected * seen:
            return
        raise GuardError(
            f"{label}: takes {lost / seen:.1%} of {seen:,} rows; is the threshold on the scale of the column, and the column "
            f"there? (a null counts as false; `pairsift plan` names the columns); what is done is kept; to go on all the same: "
            f"--set guard.max_rejected=1"
        )


def is_partial(guard: Guard, funnel: Funnel) -> bool:
    """Whether more rows than `guard.partial` of all failed."""
    failed = sum(loss.rows for loss in funnel.losses if not loss.rule)
    return failed > guard.partial * funnel.rows
