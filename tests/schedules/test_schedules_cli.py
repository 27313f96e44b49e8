"""Claims about `millhand schedule`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cli_runner import millhand
from factory import qualified
from kept_schedules import put, schedule
from millhand.core.args.codec import RawArgs
from millhand.core.insert_opts import InsertOpts
from millhand.core.schedule import JobSchedule
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.schedules.control import ScheduleControl, declare_schedules

pytestmark = pytest.mark.usefixtures("project")


async def test_schedule_set_creates_and_changes_what_it_names(schema_driver: AsyncpgDriver) -> None:
    """Each option sets one value, and all others stay."""
    made = await millhand(
        "schedule", "set", "nightly", "--kind", "report", "--args", '{"a":1}', "--cron", "0 3 1 1 *",
        "--timezone", "Europe/Berlin", "--catch-up", "all", "--overlap", "skip", "--jitter", "5m",
        "--queue", "mail", "--priority", "2", "--max-attempts", "3",
    )  # fmt: skip
    full = (await ScheduleControl(schema_driver).get("nightly")).schedule
    changed = await millhand("schedule", "set", "nightly", "--every", "1d", "--priority", "4")
    after = (await ScheduleControl(schema_driver).get("nightly")).schedule

    assert (made.code, made.out) == (0, "")
    assert made.err.startswith("set schedule nightly: 0 3 1 1 * Europe/Berlin, next run 2")
    assert full == JobSchedule(
        id="nightly",
        args=RawArgs("report", '{"a":1}'),
        cron="0 3 1 1 *",
        timezone="Europe/Berlin",
        catch_up="all",
        overlap="skip",
        jitter=timedelta(minutes=5),
        opts=InsertOpts(queue="mail", priority=2, max_attempts=3, tags=()),
    )
    assert changed.err.startswith("set schedule nightly: every 1 d, next run 2")
    assert (after.cron, after.interval, after.catch_up) == (None, timedelta(days=1), "all")
    assert after.opts == InsertOpts(queue="mail", priority=4, max_attempts=3, tags=())


async def test_schedule_list_and_show_have_the_values(schema_driver: AsyncpgDriver) -> None:
    """A pipe gets lines, and JSON has the definition and the next instants; `set by` tells code from run time."""
    await declare_schedules(schema_driver.pool, [schedule("declared", cron="@yearly")])
    await put(schema_driver.pool, schedule("other", interval=timedelta(hours=6)))

    listed = await millhand("schedule", "list")
    shown = await millhand("schedule", "show", "other", "--next", "2", "--json")
    fields = await millhand("schedule", "show", "other", "--next", "1")

    assert [(line[0], line[1], line[2], line[-1]) for line in listed.lines] == [
        ("declared", "digest", "@yearly UTC", "code"),
        ("other", "digest", "every 6 h", "run time"),
    ]
    assert (shown.json["interval"], shown.json["kind"]) == ("PT21600S", "digest")
    assert shown.json["next_instants"] == ["2026-03-10T12:00:00Z", "2026-03-10T18:00:00Z"]
    assert ["next 1", "2026-03-10T12:00:00Z"] in fields.lines
    assert len((await millhand("schedule", "list", "--json")).json) == 2


@pytest.mark.slow
async def test_schedule_pause_run_resume_and_remove(schema_driver: AsyncpgDriver) -> None:
    """Each command prints what it did."""
    await put(schema_driver.pool, schedule("yearly", cron="@yearly", overlap="skip"))

    paused = await millhand("schedule", "pause", "yearly")
    ran = await millhand("schedule", "run", "yearly")
    again = await millhand("schedule", "run", "yearly")
    line = (await millhand("schedule", "list")).lines[0]
    resumed = await millhand("schedule", "resume", "yearly")
    unsure = await millhand("schedule", "remove", "yearly")
    removed = await millhand("schedule", "remove", "yearly", "--yes")

    [job] = await schema_driver.pool.fetch(
        qualified("SELECT id FROM /* schema */river_job", schema_driver.pool)
    )
    assert paused.err == "paused schedule yearly\n"
    assert ran.err == f"inserted job {job['id']} of kind digest into queue default\n"
    assert (again.code, again.err.startswith("error: the last run of schedule 'yearly' must have ended")) == (
        1,
        True,
    )
    assert line[3] == "paused"
    assert resumed.err.startswith("resumed schedule yearly, next run 2")
    assert (unsure.code, removed.err) == (2, "removed schedule yearly\n")
    assert (await millhand("schedule", "list")).lines == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["set", "a1"],
            "error: set must change something, got no option; see: millhand schedule set --help\n",
        ),
        (
            ["set", "a1", "--cron", "@daily"],
            "error: --kind must be given for a new schedule, got 'a1' without; write --kind KIND\n",
        ),
        (
            ["set", "a1", "--kind", "x1", "--cron", "@daily", "--every", "1h"],
            "error: --cron must be left out with --every, got both\n",
        ),
        (
            ["set", "a1", "--kind", "x1"],
            "error: schedule 'a1': cron or interval must be set, got None and None\n",
        ),
    ],
)
@pytest.mark.usefixtures("schema_driver")
async def test_wrong_use_of_set_is_refused(arguments: list[str], text: str) -> None:
    """The error names the option and the remedy."""
    result = await millhand("schedule", *arguments)

    assert (result.code, result.err) == (2, text)


async def test_a_missing_schedule_is_named_with_a_near_one(schema_driver: AsyncpgDriver) -> None:
    """The hint is an id that exists."""
    await put(schema_driver.pool, schedule("nightly"))

    result = await millhand("schedule", "pause", "nightli")

    assert (result.code, result.err) == (
        1,
        "error: schedule must exist, found none with id 'nightli'; did you mean 'nightly'?\n",
    )
