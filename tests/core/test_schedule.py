"""The values of schedules: their instants, what is caught up, and the text in the table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept_schedules import NOON, schedule
from millhand.core.args.codec import RawArgs
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.schedule import (
    CAUGHT_UP_MAX,
    LATE,
    Definition,
    decode_definition,
    decode_schedule,
    definition_of,
    delay,
    due_runs,
    encode_schedule,
    without_overlap,
)
from millhand.core.unique import Unique, UniqueOpts

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Report:
    kind: ClassVar[str] = "report"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="reports", unique=UniqueOpts(by_args=True))
    tenant: Annotated[str, Unique]
    pages: int = 3


def definition(**given: Any) -> Definition:
    return definition_of(schedule(**given))


def instants_of(one: Definition, after: datetime, until: datetime) -> list[datetime]:
    found = []
    at = one.next_after(after)
    while at is not None and at <= until:
        found.append(at)
        at = one.next_after(at)
    return found


# A day in each zone on which its clocks change, forth and back.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, tzinfo=UTC)),  # by half an hour
    ("Australia/Lord_Howe", datetime(2026, 4, 4, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 9, 6, tzinfo=UTC)),  # at midnight
    ("America/Santiago", datetime(2026, 4, 4, tzinfo=UTC)),
    ("Asia/Kolkata", datetime(2026, 3, 29, tzinfo=UTC)),  # never
]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize("minutes", [(0,), (15, 45)])
def test_instants_are_those_whose_wall_clock_matches(
    zone: str, day: datetime, minutes: tuple[int, ...]
) -> None:
    """Around a change of the clocks, each minute of UTC is an instant if and only if its local time matches."""
    one = definition(cron=f"{','.join(map(str, minutes))} 0-3,23 * * *", timezone=zone)
    start, end = day - DAY, day + 3 * DAY
    every_minute = [start + n * MINUTE for n in range(1, (end - start) // MINUTE + 1)]
    local = ZoneInfo(zone)

    found = instants_of(one, start, end)

    assert found == [
        at
        for at in every_minute
        if (here := at.astimezone(local)).minute in minutes and here.hour in (0, 1, 2, 3, 23)
    ]


def expected_runs(one: Definition, first: datetime, now: datetime) -> list[datetime]:
    """What is due, by a look at each instant of the gap."""
    due = [first, *instants_of(one, first, now)]
    if one.catch_up == "all":
        return due[-CAUGHT_UP_MAX:]
    on_time = [at for at in due if now - at < LATE]
    return on_time or (due[-1:] if one.catch_up == "once" else [])


@given(
    catch_up=st.sampled_from(["skip", "once", "all"]),
    rule=st.sampled_from(
        [
            {"cron": "* * * * *"},
            {"cron": "*/7 3 * * 1"},
            {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
            {"cron": "0 0 29 2 *"},
            {"cron": "@every 90s"},
            {"interval": timedelta(seconds=1)},
            {"interval": timedelta(seconds=100)},
            {"interval": 5 * HOUR, "starts_at": datetime(2026, 1, 1, 0, 7, tzinfo=UTC)},
            {"interval": MINUTE, "ends_at": NOON + 2 * HOUR},
        ]
    ),
    gap=st.one_of(st.timedeltas(timedelta(0), 2 * MINUTE), st.timedeltas(timedelta(0), 3 * HOUR)),
)
def test_catch_up_is_that_of_a_plain_look_at_each_instant(
    catch_up: Any, rule: dict[str, Any], gap: timedelta
) -> None:
    """The runs, the next instant and the last one, after a gap of any length."""
    one = definition(catch_up=catch_up, **rule)
    first = one.next_after(NOON - MINUTE)
    if first is None:
        return
    now = first + gap

    due = due_runs(one, first, now)

    assert list(due.runs) == expected_runs(one, first, now)
    assert due.next_run_at == one.next_after(now)
    assert due.last_due_at == ([first, *instants_of(one, first, now)])[-1]


@pytest.mark.parametrize("gap", [MINUTE * 3, DAY, 31 * DAY, 365 * DAY])
@pytest.mark.parametrize(("catch_up", "num"), [("skip", 1), ("once", 1), ("all", CAUGHT_UP_MAX)])
def test_a_long_gap_costs_few_instants(gap: timedelta, catch_up: str, num: int) -> None:
    """A schedule of each minute that was not run for a year reads no more than some hundred instants."""
    one = definition(catch_up=catch_up)

    due = due_runs(one, NOON, NOON + gap)

    wanted = min(num, gap // MINUTE + 1)
    assert list(due.runs) == [NOON + gap - n * MINUTE for n in reversed(range(wanted))]


def test_an_instant_of_a_changed_schedule_is_still_due() -> None:
    """The stored instant counts although the new expression does not match it."""
    due = due_runs(definition(cron="30 * * * *"), NOON, NOON + 31 * MINUTE)

    assert (list(due.runs), due.next_run_at) == ([NOON + 30 * MINUTE], NOON + 90 * MINUTE)


@given(
    overlap=st.sampled_from(["allow", "skip", "once_waiting"]),
    last=st.one_of(st.none(), st.sampled_from(JobState)),
    num=st.integers(0, 4),
)
def test_overlap_is_that_of_one_run_after_the_other(overlap: Any, last: JobState | None, num: int) -> None:
    """The runs of a pass are considered in order: what was inserted before waits, and then counts."""
    one = definition(overlap=overlap)
    runs = [NOON + n * MINUTE for n in range(num)]
    expected, state = [], last
    for run in runs:
        has_ended = state is None or state.is_finalized
        if overlap == "allow" or has_ended or (overlap == "once_waiting" and state is JobState.RUNNING):
            expected.append(run)
            state = JobState.AVAILABLE

    assert list(without_overlap(one, runs, last)) == expected


def test_jitter_is_the_same_for_every_leader_and_spreads_runs() -> None:
    """The delay depends on id and instant alone, whatever its zone, and fills the jitter."""
    berlin = NOON.astimezone(ZoneInfo("Europe/Berlin"))
    delays = [delay("digest", NOON + n * MINUTE, MINUTE) for n in range(1_000)]

    assert delay("digest", NOON, MINUTE) == delay("digest", berlin, MINUTE) != delay("other", NOON, MINUTE)
    assert (min(delays) >= timedelta(0), max(delays) < MINUTE) == (True, True)
    assert all(sum(n * 6 <= d.total_seconds() < (n + 1) * 6 for d in delays) > 60 for n in range(10))


def test_a_schedule_survives_the_table() -> None:
    """Every value is read as it was set, and the text is the same again."""
    full = schedule(
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        catch_up="all",
        overlap="skip",
        jitter=timedelta(seconds=1.5),
        starts_at=NOON,
        ends_at=NOON + DAY,
        args=RawArgs("report", '{"b":1,"a":1.50}'),
        opts=InsertOpts(
            max_attempts=3,
            metadata={"a": [1]},
            pending=True,
            priority=2,
            queue="mail",
            tags=("abc",),
            unique=UniqueOpts(
                by_args=(("a",),), by_period=DAY, by_queue=True, by_state=tuple(sorted(JobState))
            ),
        ),
    )

    text = encode_schedule(full)

    assert decode_schedule(full.id, text) == full
    assert encode_schedule(decode_schedule(full.id, text)) == text
    assert encode_schedule(schedule()) == '{"kind":"digest","args":{},"cron":"* * * * *"}'


def test_the_options_of_an_args_class_are_kept() -> None:
    """The table keeps no class, so the queue and the marked fields are written out."""
    stored = decode_definition(encode_schedule(schedule(args=Report("acme"))))

    params = stored.params("digest", NOON, NOON, 25)
    other = decode_definition(encode_schedule(schedule(args=Report("acme", pages=4)))).params(
        "digest", NOON, NOON, 25
    )

    assert (params.kind, params.encoded_args) == ("report", '{"tenant":"acme","pages":3}')
    assert (params.queue, params.max_attempts) == ("reports", 25)
    assert params.unique_key == other.unique_key is not None


def test_a_newer_clients_fields_are_ignored() -> None:
    """A definition with an unknown field is read without it."""
    assert decode_definition('{"kind":"x1","args":{},"cron":"@daily","new":1}').cron == "@daily"


@pytest.mark.parametrize(
    ("given_values", "text"),
    [
        ({"id": "a"}, "id of a schedule must be 2 to 127"),
        ({"cron": "* *"}, "number of fields must be 5, got 2"),
        ({"cron": None}, "schedule 'digest': cron or interval must be set, got None and None"),
        ({"cron": "@daily", "interval": DAY}, "cron or interval must be set, got '@daily' and"),
        ({"interval": timedelta(0)}, "interval must be 1 s to 100 years, got datetime.timedelta(0)"),
        ({"interval": 5}, "interval must be a timedelta, got 5; write timedelta(seconds=…)"),
        ({"jitter": -MINUTE}, "jitter must be 0 s to 100 years"),
        ({"catch_up": "some"}, "catch_up must be one of skip, once, all, got 'some'"),
        ({"overlap": "some"}, "overlap must be one of allow, skip, once_waiting, got 'some'"),
        ({"timezone": "Mars/X"}, "time zone must be a name of the IANA database, got 'Mars/X'"),
        ({"timezone": None}, "timezone must be a name of the IANA database, got None"),
        ({"starts_at": datetime(2026, 1, 1)}, "starts_at must be a datetime with a time zone"),  # noqa: DTZ001
        (
            {"starts_at": NOON, "ends_at": NOON},
            "ends_at must be after starts_at, got 2026-03-10T12:00:00+00:00",
        ),
        (
            {"opts": InsertOpts(scheduled_at=NOON)},
            "opts must not have scheduled_at, got 2026-03-10T12:00:00+00:00",
        ),
        ({"opts": {}}, "opts must be InsertOpts, got {}"),
    ],
)
def test_an_invalid_schedule_is_refused(given_values: dict[str, Any], text: str) -> None:
    """The error names the value, the rule and what was given."""
    with pytest.raises((ConfigError, InvalidJob)) as raised:
        schedule(**given_values)

    assert text in str(raised.value)


def test_bounds_end_the_instants() -> None:
    """The first instant is starts_at or later, the last one before ends_at."""
    one = definition(interval=20 * MINUTE, starts_at=NOON, ends_at=NOON + HOUR)

    assert instants_of(one, NOON - DAY, NOON + DAY) == [NOON, NOON + 20 * MINUTE, NOON + 40 * MINUTE]
