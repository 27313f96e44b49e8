"""Texts of stuck flows, and of held and halted partitions: what, since when, and the commands that end it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millhand.core.limit import PartitionStatus
from millhand.flows import checks as flow_checks
from millhand.flows.report_store import StuckFlow
from millhand.limits import checks as limit_checks
from millhand.limits.report_store import HeldQueue
from millhand.shells.doctor.finding import Finding

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHOW = "millhand flow show 7"


def only(findings: Any) -> Finding:
    [finding] = findings
    assert isinstance(finding, Finding)
    return finding


@pytest.mark.parametrize(
    ("reason", "level", "why", "commands"),
    [
        (
            {"ended_job_id": 3, "halted_job_id": 4},
            "broken",
            "Job 3 has ended or was deleted, and no leader has counted it.",
            ("millhand client list", SHOW),
        ),
        (
            {"decided_job_id": 5},
            "broken",
            "What job 5 waited for has ended, and no leader has released it.",
            ("millhand client list", SHOW),
        ),
        (
            {"halted_job_id": 4},
            "harmful",
            "Job 4 waits in a halted partition.",
            ("millhand limit halted", SHOW),
        ),
        (
            {"pending_job_id": 6},
            "broken",
            "Job 6 is pending, and waits for no task and no limit.",
            ("millhand job retry 6", SHOW),
        ),
        (
            {},
            "broken",
            "Its tasks wait for tasks that have all ended.",
            ("millhand flow cancel 7", "millhand flow retry 7 --mode failed_only"),
        ),
    ],
)
def test_stuck_flow_says_since_when_and_why(
    reason: dict[str, int], level: str, why: str, commands: tuple[str, ...]
) -> None:
    """Each reason has its own text, level and commands; what no leader has counted comes first."""
    ids = dict.fromkeys(("ended_job_id", "decided_job_id", "halted_job_id", "pending_job_id"))
    values: dict[str, Any] = {
        "id": 7,
        "name": "report",
        "num_open": 2,
        "last_at": NOW - 3 * HOUR,
        **ids,
        **reason,
    }

    finding = only(flow_checks.stuck_findings([StuckFlow(**values)], NOW))

    assert (finding.level.value, finding.subject) == (level, "flow 7")
    assert finding.found == f"Flow 7, report, has not gone on for 3 h. {why}"
    assert (finding.effect, finding.commands) == ("2 tasks do not end.", commands)


def partition(key: str, *, waiting: int, halted_for: timedelta) -> PartitionStatus:
    return PartitionStatus(
        queue="mail", key=key, running=0, waiting=waiting, weight=1, at_once=None, held_until=None,
        next_start_at=None, halted_by=4, halted_at=NOW - halted_for,
    )  # fmt: skip


@pytest.mark.parametrize(("waiting", "level"), [((0, 0), "notable"), ((0, 9), "harmful"), ((1, 0), "broken")])
def test_halt_is_worse_after_a_day_with_waiting_jobs(waiting: tuple[int, int], level: str) -> None:
    """Only partitions with waiting jobs count, and among these the first that was halted."""
    halted = [
        partition("a", waiting=waiting[0], halted_for=25 * HOUR),
        partition("b", waiting=waiting[1], halted_for=HOUR),
    ]

    finding = only(limit_checks.halted_findings(halted, NOW))

    assert (finding.level.value, finding.found) == (
        level,
        "2 partitions are halted, the first by job 4 1 d 1 h ago.",
    )


@pytest.mark.parametrize(
    ("held_for", "waited_for", "level"),
    [(HOUR, timedelta(0), "notable"), (timedelta(minutes=1), HOUR, "harmful"), (HOUR / 2, HOUR / 2, None)],
)
def test_hold_is_found_if_a_job_waits_for_an_hour(
    held_for: timedelta, waited_for: timedelta, level: str | None
) -> None:
    """A hold that lasts, or that is renewed while a job waits, is found; a short one is as it should be."""
    held = HeldQueue("mail", 1, '["a b"]', NOW + held_for, NOW - waited_for)

    found = limit_checks.held_findings([held], NOW)

    if level is None:
        assert found == []
        return
    finding = only(found)
    assert finding.level.value == level
    assert finding.commands == ("millhand limit show mail", "millhand limit release mail '[\"a b\"]'")
