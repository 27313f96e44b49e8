from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import golden
from millhand.core.crontab import CronSchedule, EverySchedule, parse_cron, zone_of
from millhand.core.errors import ConfigError

RECORDED = golden("cron")
FOUND_BY_RIVER = [
    pytest.param(recorded, id=recorded["spec"]) for recorded in RECORDED["rows"] if recorded["error"] is None
]
REFUSED_BY_RIVER = [recorded["spec"] for recorded in RECORDED["rows"] if recorded["error"] is not None]

# River's parser is wrong around a half-hour change of the clock, and Millhand's is not.
LORD_HOWE = "Australia/Lord_Howe"


def instant(text: str | None) -> datetime | None:
    """Return an instant from its text, with nanoseconds cut to microseconds."""
    return None if text is None else datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def following(
    spec: str, zone: str | tzinfo | None, after: datetime | None, number: int
) -> list[datetime | None]:
    schedule = parse_cron(spec, None if "TZ=" in spec else zone)
    found: list[datetime | None] = []
    while after is not None and len(found) < number:
        after = schedule.next(after)
        found.append(after)
    return found


@pytest.mark.parametrize("recorded", FOUND_BY_RIVER)
def test_cron_finds_the_instants_that_river_finds(recorded: dict[str, Any]) -> None:
    """cron_schedule_goldens; every golden expression gives River's instants from every start, except on Lord Howe Island."""
    for start, expected in zip(RECORDED["starts"], recorded["next"], strict=True):
        actual = following(recorded["spec"], start["zone"], instant(start["at"]), len(expected))

        if start["zone"] != LORD_HOWE:
            assert actual == [instant(text) for text in expected], start
        else:
            assert all(found <= wanted for found, wanted in _pairs(actual, expected)), start


def _pairs(actual: list[datetime | None], expected: list[str | None]) -> list[tuple[datetime, datetime]]:
    wanted = [instant(text) for text in expected]
    return [
        (one, other)
        for one, other in zip(actual, wanted, strict=True)
        if one is not None and other is not None
    ]


def test_cron_keeps_to_the_wall_clock_on_lord_howe_island() -> None:
    """A daily schedule fires every day although the clock goes back by half an hour; River's skips one day."""
    start = datetime(2024, 4, 7, 1, 20, tzinfo=ZoneInfo(LORD_HOWE))

    actual = following("0 0 * * *", LORD_HOWE, start, 3)

    assert [found.astimezone(start.tzinfo).isoformat() for found in actual if found] == [
        "2024-04-08T00:00:00+10:30",
        "2024-04-09T00:00:00+10:30",
        "2024-04-10T00:00:00+10:30",
    ]


@pytest.mark.parametrize("spec", REFUSED_BY_RIVER)
def test_cron_rejects_what_river_rejects(spec: str) -> None:
    """cron_schedule_goldens; no expression that River rejects is accepted."""
    with pytest.raises(ConfigError):
        parse_cron(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "cron expression's number of fields must be 5, got 0 in ''"),
        ("* * * *", "cron expression's number of fields must be 5, got 4 in '* * * *'"),
        ("TZ=UTC", "cron expression's number of fields must be 5, got 0 in 'TZ=UTC'"),
        ("60 * * * *", "cron expression's minute must be within 0-59, in order, got '60' in '60 * * * *'"),
        ("5-1 * * * *", "cron expression's minute must be within 0-59, in order, got '5-1' in '5-1 * * * *'"),
        (
            "* * * * 7",
            "cron expression's day of week must be within 0-6, in order, got '7' in '* * * * 7'; Sunday is 0",
        ),
        ("* * * * 1#2", "cron expression's day of week must be 0-6 or SUN-SAT, got '1#2' in '* * * * 1#2'"),
        ("*/0 * * * *", "cron expression's step of minute must be at least 1, got '*/0' in '*/0 * * * *'"),
        (
            "*,7-5 * * * *",
            "cron expression's minute must be within 0-59, in order, got '7-5' in '*,7-5 * * * *'",
        ),
        (", * * * *", "cron expression's minute must name a value, got ',' in ', * * * *'"),
        (
            "@reboot",
            (
                "cron expression's descriptor must be one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, "
                "@hourly, @every, got '@reboot' in '@reboot'"
            ),
        ),
        ("@every 1", "cron expression's duration must be like '90s' or '1h30m', got '1' in '@every 1'"),
        (
            "@every 99999999999h",
            "cron expression's duration must be at most 292 years, got '99999999999h' in '@every 99999999999h'",
        ),
        (
            "CRON_TZ=No/Where * * * * *",
            (
                "time zone must be a name of the IANA database, got 'No/Where'; "
                "if the name is right, install the package tzdata"
            ),
        ),
    ],
)
def test_cron_error_names_field_rule_and_piece(spec: str, message: str) -> None:
    """The error has the field, the rule, the piece and the whole expression."""
    with pytest.raises(ConfigError) as refusal:
        parse_cron(spec)

    assert str(refusal.value) == message


def test_cron_rejects_two_zones() -> None:
    """A zone in the expression and another as parameter raise."""
    with pytest.raises(ConfigError) as refusal:
        parse_cron("TZ=Asia/Tokyo 0 3 * * *", "Europe/Berlin")

    assert str(refusal.value) == (
        "cron expression's time zone must be given once, got 'Asia/Tokyo' and 'Europe/Berlin' "
        "in 'TZ=Asia/Tokyo 0 3 * * *'"
    )


def test_cron_uses_utc_without_a_zone() -> None:
    """The zones of the start and of the machine have no effect."""
    after = datetime(2024, 5, 1, 12, tzinfo=ZoneInfo("Asia/Tokyo"))

    assert parse_cron("0 4 * * *").next(after) == datetime(2024, 5, 1, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2024-10-27T01:59:00+02:00", "2024-10-27T02:30:00+02:00"),  # on the way into the repeated hour
        ("2024-10-27T02:10:00+02:00", "2024-10-27T02:30:00+02:00"),  # in its first reading, before the time
        ("2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"),  # in its first reading, at the time
        ("2024-10-27T02:50:00+02:00", "2024-10-27T02:30:00+01:00"),  # in its first reading, after the time
        ("2024-10-27T02:10:00+01:00", "2024-10-27T02:30:00+01:00"),  # in its second reading, before the time
        ("2024-10-27T02:30:00+01:00", "2024-10-28T02:30:00+01:00"),  # in its second reading, at the time
    ],
)
def test_cron_fires_twice_in_an_hour_that_is_repeated(after: str, expected: str) -> None:
    """From any instant around the repeated hour, the next occurrence of 02:30 is found."""
    berlin = ZoneInfo("Europe/Berlin")

    actual = parse_cron("30 2 * * *", berlin).next(datetime.fromisoformat(after))

    assert actual == datetime.fromisoformat(expected)


def test_cron_skips_a_time_that_does_not_exist() -> None:
    """Nothing fires on the day when the clock skips 02:30."""
    berlin = ZoneInfo("Europe/Berlin")

    actual = following("30 2 * * *", berlin, datetime(2024, 3, 30, 12, tzinfo=berlin), 1)

    assert actual == [datetime(2024, 4, 1, 2, 30, tzinfo=berlin)]


def test_cron_waits_longer_than_river_for_a_rare_day() -> None:
    """Millhand finds a 29 February eight years away; River searches five years only."""
    assert parse_cron("0 0 29 2 *").next(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(
        2104, 2, 29, tzinfo=UTC
    )


def test_cron_ends_where_the_calendar_ends() -> None:
    """A day that no month has, and the last year, give None."""
    assert parse_cron("0 0 30 2 *").next(datetime(2024, 1, 1, tzinfo=UTC)) is None
    assert parse_cron("0 0 1 1 *").next(datetime(9999, 6, 1, tzinfo=UTC)) is None


def test_every_cuts_to_whole_seconds() -> None:
    """`@every` counts whole seconds from whole seconds, as River's does."""
    schedule = parse_cron("@every 1m30.7s")

    assert schedule == EverySchedule("@every 1m30.7s", timedelta(seconds=90))
    assert schedule.next(datetime(2024, 5, 1, 0, 0, 0, 999_999, tzinfo=UTC)) == datetime(
        2024, 5, 1, 0, 1, 30, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("spec", "seconds"), [("@every 4.1m", 246), ("@every 8.2m1s", 493), ("@every 0.1h4.1h", 15_120)]
)
def test_every_counts_fractions_exactly(spec: str, seconds: int) -> None:
    """4.1 minutes, which no float holds, are exactly 246 seconds, as in River."""
    assert parse_cron(spec) == EverySchedule(spec, timedelta(seconds=seconds))


def test_zone_of_takes_a_name_a_zone_or_nothing() -> None:
    """A zone is given by name or as an object; without one it is UTC."""
    assert [zone_of("Asia/Tokyo"), zone_of(ZoneInfo("Asia/Tokyo")), zone_of(None)] == [
        ZoneInfo("Asia/Tokyo"),
        ZoneInfo("Asia/Tokyo"),
        UTC,
    ]


ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Kathmandu",
]
SPECS = [
    "*/10 * * * *",
    "30 * * * *",
    "30 1,2 * * *",
    "0 0 * * *",
    "15 */6 * * 1-5",
    "45 23 1,8,15,22,29 * *",
    "*/30 2 * * 0",
]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    zone=st.sampled_from(ZONES),
    after=st.datetimes(
        datetime.fromisoformat("2023-01-01"), datetime.fromisoformat("2026-01-01"), timezones=st.just(UTC)
    ),
)
def test_cron_finds_the_first_matching_minute(spec: str, zone: str, after: datetime) -> None:
    """The result is the first later minute whose wall-clock time matches, as a search minute by minute finds."""
    schedule = parse_cron(spec, zone)
    assert isinstance(schedule, CronSchedule)

    actual = schedule.next(after)

    step = timedelta(minutes=1)
    minute = after.replace(second=0, microsecond=0) + step
    while not matches(schedule.fields, minute.astimezone(ZoneInfo(zone))):
        minute += step
    assert actual == minute


def matches(fields: str, local: datetime) -> bool:
    minutes, hours, days, months, weekdays = (
        None if field == "*" else set(map(int, field.split(","))) for field in fields.split()
    )
    is_day = days is None or local.day in days
    is_weekday = weekdays is None or local.isoweekday() % 7 in weekdays
    is_date = is_day or is_weekday if days is not None and weekdays is not None else is_day and is_weekday
    return (
        (minutes is None or local.minute in minutes)
        and (hours is None or local.hour in hours)
        and (months is None or local.month in months)
        and is_date
    )
