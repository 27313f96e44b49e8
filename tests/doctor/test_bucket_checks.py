"""Verdicts about the object store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from doctor_worlds import named

from millhand.core.orphans import Mode, OrphansConfig
from millhand.doctor.bucket_checks import (
    access_findings,
    binding_findings,
    clock_findings,
    lifecycle_findings,
    run_findings,
    versioning_findings,
)
from millhand.orphans.binding import Binding, BindingRow, Marker
from millhand.orphans.ledger import Run, Totals
from millhand.storage import ExpiryRule, StoreError, Versioning

DAY = timedelta(days=1)
STORE = "s3://shop/"


@pytest.mark.parametrize(
    ("step", "mode", "level"),
    [
        ("list", Mode.REPORT, "broken"),
        ("get", Mode.DELETE, "broken"),
        ("put", Mode.REPORT, "notable"),
        ("put", Mode.QUARANTINE, "harmful"),
        ("delete", Mode.DELETE, "harmful"),
    ],
)
def test_each_missing_permission_is_named(step: str, mode: Mode, level: str) -> None:
    """A store that cannot be read is broken; one that cannot be written matters if the mode removes objects."""
    error = StoreError(step, "AccessDenied: no", is_denied=True)

    [one] = access_findings({step: error}, STORE, mode)

    assert named([one]) == [(level, f"store {STORE}")]
    assert "s3:" in one.remedy
    assert access_findings({}, STORE, mode) == []


@pytest.mark.parametrize(
    ("versioning", "has_version", "level"),
    [
        (Versioning.OFF, False, None),
        (Versioning.OFF, True, "harmful"),
        (Versioning.ENABLED, True, None),
        (Versioning.SUSPENDED, False, "notable"),
    ],
)
def test_hidden_and_suspended_versions_are_found(
    versioning: Versioning, level: str | None, *, has_version: bool
) -> None:
    """Versions that the credentials cannot see are harmful, suspended ones notable."""
    found = versioning_findings(versioning, has_version=has_version, store=STORE)

    assert [one for one, _ in named(found)] == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("prefix", "versioning", "days", "mode", "level"),
    [
        ("", Versioning.OFF, 6, Mode.QUARANTINE, "broken"),
        ("", Versioning.OFF, 7, Mode.QUARANTINE, None),
        ("", Versioning.OFF, 6, Mode.REPORT, "notable"),
        (".millhand/quarantine/", Versioning.OFF, 1, Mode.DELETE, "broken"),
        (".millhand/", Versioning.OFF, 1, Mode.DELETE, "broken"),
        ("tmp/", Versioning.OFF, 1, Mode.DELETE, None),
        ("tmp/", Versioning.ENABLED, 1, Mode.DELETE, "broken"),
    ],
)
def test_lifecycle_rule_shorter_than_the_quarantine_is_found(
    prefix: str, versioning: Versioning, days: int, mode: Mode, level: str | None
) -> None:
    """Without versions a rule must hit the quarantine, with them a rule about noncurrent versions of any key does."""
    rule = ExpiryRule(name="r", prefix=prefix, after=days * DAY, after_noncurrent=days * DAY)

    found = lifecycle_findings([rule], OrphansConfig(mode=mode, quarantine_for=7 * DAY), versioning)

    assert named(found) == ([] if level is None else [(level, "lifecycle rule r")])


def test_rule_without_an_age_is_none() -> None:
    """A rule that only deletes noncurrent versions does nothing in a bucket without versions, and the reverse."""
    config = OrphansConfig(mode=Mode.DELETE)
    rules = [
        ExpiryRule(name="current", prefix="", after=DAY),
        ExpiryRule(name="noncurrent", prefix="", after_noncurrent=DAY),
    ]

    assert named(lifecycle_findings(rules, config, Versioning.OFF)) == [("broken", "lifecycle rule current")]
    assert named(lifecycle_findings(rules, config, Versioning.ENABLED)) == [
        ("broken", "lifecycle rule noncurrent")
    ]


def test_bucket_of_another_database_is_found_with_the_command_that_binds_it() -> None:
    """The reason for which a run aborts is the finding; a bound and a new bucket have none."""
    row = BindingRow(
        bucket=STORE, token="t", database="d", generation=1, bound_at=datetime(2026, 11, 1, tzinfo=UTC)
    )
    marker = Marker(bound_at="2026-11-02", database="e", generation=1, name="other", token="u")
    own = Marker(bound_at="2026-11-01", database="d", generation=1, name="shop", token="t")

    [one] = binding_findings(Binding(row=row, database="d", marker=marker, name="shop"))

    assert one.found.startswith(
        "The bucket must be bound to this database, 'shop', got one that 'other' bound"
    )  # type: ignore[union-attr]
    assert one.commands == ("millhand orphans bind",)
    assert binding_findings(Binding(row=row, database="d", marker=own, name="shop")) == []
    assert binding_findings(Binding(row=None, database="d", marker=None, name="shop")) == []


@pytest.mark.parametrize(
    ("seconds", "level"), [(0, None), (6, None), (-7, "notable"), (300, "notable"), (301, "harmful")]
)
def test_clock_of_the_store_is_judged_by_the_guard_of_runs(seconds: float, level: str | None) -> None:
    """Above `max_clock_skew` runs abort; a few seconds are notable."""
    found = clock_findings(timedelta(seconds=seconds), OrphansConfig(), STORE)

    assert named(found) == ([] if level is None else [(level, f"clock of store {STORE}")])


def run(state: str, *, abort_reasons: tuple[str, ...] = (), error: str | None = None) -> Run:
    at = datetime(2026, 11, 27, tzinfo=UTC)
    return Run(
        id=7,
        bucket=STORE,
        mode="report",
        fingerprint="f",
        state=state,
        epoch=1,
        started_at=at,
        heartbeat_at=at,
        scanned_at=None,
        finished_at=None if state in ("scanning", "sweeping") else at,
        cursor_key="",
        is_ordered=True,
        totals=Totals(),
        abort_reasons=abort_reasons,
        error=error,
    )


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([], None),
        ([run("completed"), run("failed")], None),
        ([run("scanning"), run("completed")], None),
        ([run("scanning"), run("failed", error="no disk")], "failed: no disk."),
        ([run("aborted", abort_reasons=("too many", "too old"))], "was aborted: too many; too old."),
    ],
)
def test_last_cleanup_that_ended_is_judged(runs: list[Run], text: str | None) -> None:
    """A run that fails or is aborted is found until another one completes; one in progress does not hide it."""
    found = run_findings(runs, STORE)

    assert [one.found for one in found] == (  # type: ignore[union-attr]
        [] if text is None else [f"The last run of the orphan cleanup over {STORE} {text}"]
    )
