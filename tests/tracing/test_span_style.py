"""Names and attributes that no attempt is needed for; test_middleware.py has those of whole spans."""

from __future__ import annotations

from datetime import timedelta

import pytest

from millhand.core.errors import JobSnooze
from millhand.tracing.span_style import STYLES, go_duration


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        (timedelta(0), "0s"),
        (timedelta(microseconds=7), "7µs"),
        (timedelta(microseconds=1_500), "1.5ms"),
        (timedelta(milliseconds=500), "500ms"),
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=90, milliseconds=500), "1m30.5s"),
        (timedelta(hours=1, minutes=30), "1h30m0s"),
        (timedelta(days=2), "48h0m0s"),
    ],
)
def test_duration_is_that_of_go(duration: timedelta, shown: str) -> None:
    """A duration is printed as Go's `Duration.String` prints it."""
    assert go_duration(duration) == shown


def test_otelriver_has_the_delay_of_a_snooze() -> None:
    """A snoozed attempt is `ok`, with `snooze` and its duration; a cancelled one is an error."""
    style = STYLES["otelriver"]

    assert style.work_end("snoozed", JobSnooze(timedelta(minutes=2))) == {
        "status": "ok",
        "snooze": True,
        "snooze.duration": "2m0s",
    }
    assert style.work_end("cancelled", None) == {"status": "error", "cancel": True}
