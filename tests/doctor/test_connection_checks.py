"""Verdicts about the way to the database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from doctor_worlds import named

from millhand.doctor.connection_checks import clock_findings, latency_findings, pooler_findings


@pytest.mark.parametrize(
    ("own", "others", "flags", "level"),
    [
        ([1, 1, 1, 1], [2, 3, 4], (False, False), None),
        ([1, 1, 5, 5], [2, 3, 4], (False, False), "broken"),
        ([1, 1, 1, 1], [1, 3, 4], (False, False), "broken"),
        ([1, 1, 5, 5], [2, 3, 4], (True, False), None),
        ([1], [], (False, True), "broken"),
        ([1], [], (True, True), "broken"),
        ([1], [], (False, False), None),
    ],
)
def test_pooler_is_found_by_the_processes_that_answer(
    own: list[int], others: list[int], flags: tuple[bool, bool], level: str | None
) -> None:
    """Another process for the same session, or the same for two, is a pooler; `poll_only` allows one for transactions."""
    is_poll_only, is_refused = flags

    found = pooler_findings(own, others, is_poll_only=is_poll_only, is_refused=is_refused)

    assert named(found) == ([] if level is None else [(level, "DATABASE_URL")])


@pytest.mark.parametrize(("ms", "is_slow"), [([1, 500, 20], False), ([21, 21, 1], True)])
def test_latency_is_the_median(ms: list[int], *, is_slow: bool) -> None:
    """One slow round trip is none; a median above 20 ms is harmful."""
    found = latency_findings([timedelta(milliseconds=one) for one in ms])

    assert named(found) == ([("harmful", "DATABASE_URL")] if is_slow else [])


@pytest.mark.parametrize(
    ("seconds", "side"), [(5, None), (-5, None), (61, "1 min 1 s ahead of"), (-6, "6.0 s behind")]
)
def test_clock_that_is_off_is_named_with_its_side(seconds: float, side: str | None) -> None:
    """More than five seconds are found, in both directions."""
    found = clock_findings(timedelta(seconds=seconds))

    assert [one.found for one in found] == (  # type: ignore[union-attr]
        [] if side is None else [f"The clock of this machine is {side} the database's."]
    )
