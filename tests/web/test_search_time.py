from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from millhand.web.search_time import period_of

ZONE = ZoneInfo("Europe/Berlin")  # an hour ahead of UTC, in November
NOW = datetime(2026, 11, 27, 14, 30, 15, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("1h", "2026-11-27T13:30:15", None),
        ("<1h", "2026-11-27T13:30:15", None),
        (">1h", None, "2026-11-27T13:30:15"),
        ("1d12h", "2026-11-26T02:30:15", None),
        ("+1h", None, "2026-11-27T15:30:15"),
        ("<+1h", None, "2026-11-27T15:30:15"),
        (">+1h", "2026-11-27T15:30:15", None),
        ("2h..1h", "2026-11-27T12:30:15", "2026-11-27T13:30:15"),
        ("12:50", "2026-11-27T12:50", "2026-11-27T12:51"),
        ("12:50:10", "2026-11-27T12:50:10", "2026-11-27T12:50:11"),
        ("23:50", "2026-11-26T23:50", "2026-11-26T23:51"),
        (">12:50", "2026-11-27T12:50", None),
        ("<12:50", None, "2026-11-27T12:50"),
        ("12:00..13:00", "2026-11-27T12:00", "2026-11-27T13:00"),
        ("14:00..15:00", "2026-11-27T14:00", "2026-11-27T15:00"),
        ("23:50..00:10", "2026-11-26T23:50", "2026-11-27T00:10"),
        ("..12:00", None, "2026-11-27T12:00"),
        ("12:00..", "2026-11-27T12:00", None),
        ("2026-11-26", "2026-11-26T00:00", "2026-11-27T00:00"),
        ("2026-11-25..2026-11-26", "2026-11-25T00:00", "2026-11-27T00:00"),
        ("2026-11-26T10:00", "2026-11-26T10:00", "2026-11-26T10:01"),
        ("2026-11-26T10:00:00Z", "2026-11-26T11:00", "2026-11-26T11:01"),
        ("2026-10-25", "2026-10-25T00:00", "2026-10-26T00:00"),
    ],
)
def test_period_in_the_reader_s_zone(text: str, since: str | None, until: str | None) -> None:
    """A duration is an age, a clock time the last one, a date a whole day; all in the zone of the reader."""
    expected = tuple(end and datetime.fromisoformat(end).replace(tzinfo=ZONE) for end in (since, until))

    assert tuple(period_of(text, now=NOW, zone=ZONE)) == expected


def test_clock_time_of_what_is_scheduled_is_today_s() -> None:
    """A clock time later today is ahead for `scheduled`."""
    since, _ = period_of("23:50", now=NOW, zone=ZONE, may_be_ahead=True)

    assert since == datetime(2026, 11, 27, 23, 50, tzinfo=ZONE)
