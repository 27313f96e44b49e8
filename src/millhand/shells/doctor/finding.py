"""What a check finds: a fault with its effect and remedy, or that something cannot be seen."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import TypeAlias

import msgspec


class Level(enum.StrEnum):
    """How bad a finding is, the worst first."""

    BROKEN = "broken"  # jobs do not run, or may be lost
    HARMFUL = "harmful"  # jobs run late, or tables grow
    NOTABLE = "notable"  # worth knowing


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    A fault.

    Attributes:
        level: How bad it is.
        subject: What is at fault, such as `queue mail`.
        found: What was found, as a sentence.
        effect: What it does to whom.
        remedy: What to do, as a sentence, or as the beginning of one that the commands end.
        commands: Commands and statements of the remedy, to paste.
    """

    level: Level
    subject: str
    found: str
    effect: str
    remedy: str
    commands: tuple[str, ...] = ()


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the role or the credentials cannot see, as a sentence, and how to see it."""

    reason: str
    remedy: str
    commands: tuple[str, ...] = ()


Found: TypeAlias = Sequence[Finding | Unseen]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a check found, the worst first.

    It is in order if it found nothing and saw everything. `num_more` is how many findings were left out.
    """

    check: str
    findings: tuple[Finding, ...] = ()
    num_more: int = 0
    unseen: tuple[Unseen, ...] = ()

    @property
    def level(self) -> Level | None:
        """The worst level of its findings."""
        return self.findings[0].level if self.findings else None

    @property
    def is_ok(self) -> bool:
        """Whether nothing was found, and everything was seen."""
        return not self.findings and not self.unseen


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The results of all checks that ran, where they ran, and how long they took."""

    database: str | None
    role: str | None
    server: str | None
    took: timedelta
    results: tuple[CheckResult, ...]

    def count(self, level: Level) -> int:
        """Return how many findings have this level; those left out count as the check's least bad ones."""
        return sum(
            sum(finding.level is level for finding in result.findings)
            + (result.num_more if result.findings and result.findings[-1].level is level else 0)
            for result in self.results
        )

    @property
    def is_broken(self) -> bool:
        """Whether something is broken."""
        return self.count(Level.BROKEN) > 0

    def unseen_in(self, areas: Collection[str]) -> list[CheckResult]:
        """Return the results of checks of these areas that could not see everything."""
        return [one for one in self.results if one.unseen and one.check.partition(".")[0] in areas]


# A fleet with a thousand unworked queues has one fault, not a thousand.
FINDINGS_MAX = 10


def result_of(check: str, found: Found) -> CheckResult:
    """Return the result of a check, with its findings sorted and limited."""
    order = list(Level)
    findings = sorted(
        (one for one in found if isinstance(one, Finding)), key=lambda one: order.index(one.level)
    )
    return CheckResult(
        check=check,
        findings=tuple(findings[:FINDINGS_MAX]),
        num_more=max(len(findings) - FINDINGS_MAX, 0),
        unseen=tuple(one for one in found if isinstance(one, Unseen)),
    )
