"""Claims about commands that ask several databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli_runner import millhand
from two_databases import THREE, two_databases

AWAY = (
    "error: database 'asia' must answer, got: database 'postgresql://ann:***@127.0.0.1:1/shop' must accept connections, got "
    "ConnectionRefusedError: "
)
REMEDY = "check that the server runs and that ASIA_DATABASE_URL is right\n"


@pytest.fixture
async def directory(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_server_url: str
) -> AsyncIterator[Path]:
    """A project with the databases `eu` and `us`."""
    async with two_databases(empty_directory, monkeypatch, postgres_server_url) as directory:
        yield directory


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
async def test_command_changes_and_lists_the_database_that_it_names() -> None:
    """`--database` chooses one for any command, and its output is that of a single database."""
    inserted = await millhand("job", "insert", "greet", "--database", "eu")
    eu, us = [await millhand("job", "list", "--database", name) for name in ("eu", "us")]
    shown = await millhand("job", "show", inserted.out.strip(), "--database", "eu", "--json")

    assert inserted.code == 0
    assert [line[1:4] for line in eu.lines] == [["available", "greet", "default"]]
    assert (us.code, us.out) == (0, "")
    assert shown.json["kind"] == "greet"


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
async def test_list_of_all_databases_names_the_database_of_each_row() -> None:
    """`--all-databases` gives one answer in the order of the settings, with the database in each line and object."""
    for name, queue in (("us", "mail"), ("eu", "default"), ("us", "default")):
        await millhand("job", "insert", "greet", "--queue", queue, "--database", name)
    plain = await millhand("job", "list", "--all-databases")
    named = await millhand("job", "list", "--all-databases", "--json")
    queues = await millhand("queue", "list", "--all-databases")

    assert [(line[0], line[3], line[4]) for line in plain.lines] == [
        ("eu", "greet", "default"),
        ("us", "greet", "default"),
        ("us", "greet", "mail"),
    ]
    assert [[*one][:2] for one in named.json] == [["database", "id"]] * 3
    assert [one["database"] for one in named.json] == ["eu", "us", "us"]
    assert [line[:4] for line in queues.lines] == [
        ["eu", "default", "active", "1"],
        ["us", "default", "active", "1"],
        ["us", "mail", "active", "1"],
    ]


LISTS = {
    "client list": "--all",
    "dead list": "--limit=5",
    "flow list": "--limit=5",
    "limit list": "--json",
    "periodic list": "--json",
    "schedule list": "--json",
}


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
async def test_every_list_asks_all_databases() -> None:
    """Each list takes the option, and names the database of what it found."""
    for name, number in (("eu", 1), ("us", 2)):
        await millhand("limit", "set", f"mail{number}", "--at-once", number, "--database", name)
        every = ("--kind", "greet", "--every", "1h", "--database", name)
        await millhand("schedule", "set", f"nightly{number}", *every)
    found = {
        command: await millhand(*command.split(), option, "--all-databases")
        for command, option in LISTS.items()
    }

    assert {command: result.code for command, result in found.items()} == dict.fromkeys(LISTS, 0)
    limits, schedules = found["limit list"].json, found["schedule list"].json
    assert [(one["database"], one["queue"]) for one in limits] == [("eu", "mail1"), ("us", "mail2")]
    assert [(one["database"], one["id"]) for one in schedules] == [("eu", "nightly1"), ("us", "nightly2")]


@pytest.mark.slow
async def test_database_that_does_not_answer_is_named_at_the_end(directory: Path) -> None:
    """The others answer, the reason is on standard error without a password, and the exit code is 1."""
    (directory / "millhand.toml").write_text(THREE)
    await millhand("job", "insert", "greet", "--database", "us")
    result = await millhand("job", "list", "--all-databases")
    named = await millhand("job", "list", "--all-databases", "--json")
    report = await millhand("doctor", "--only", "schema", "--all-databases", "--json")

    assert (result.code, [line[0] for line in result.lines]) == (1, ["us"])
    assert (result.err.startswith(AWAY), result.err.endswith(REMEDY), result.err.count("\n")) == (
        True,
        True,
        1,
    )
    assert (named.code, [one["database"] for one in named.json]) == (1, ["us"])
    assert (report.code, [one["database"] for one in report.json]) == (1, ["eu", "us"])
    assert report.err.startswith(AWAY)


@pytest.mark.slow
async def test_each_database_that_does_not_answer_has_a_line(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several reasons are a line each, also where no database answers; one that is not migrated is such a reason."""
    (directory / "millhand.toml").write_text(THREE)
    for line in ("millhand", "main"):
        down = ("--line", line, "--target-version", "0", "--yes", "--database", "eu")
        assert (await millhand("migrate", "down", *down)).code == 0
    monkeypatch.setenv("US_DATABASE_URL", "postgresql://127.0.0.1:1/us")
    result = await millhand("queue", "list", "--all-databases")

    eu, us, asia = result.err.splitlines()
    assert (result.code, result.out) == (1, "")
    assert eu.startswith("error: database 'eu' must answer, got: Millhand's tables are missing")
    assert us.startswith("error: database 'us' must answer, got: database 'postgresql://127.0.0.1:1/us' must")
    assert f"{asia}\n".endswith(REMEDY)


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
async def test_warnings_and_limits_name_the_database() -> None:
    """A message about one database's part of the answer begins with its name."""
    for _ in range(2):
        await millhand("job", "insert", "greet", "--database", "us")
    result = await millhand("job", "list", "--kind", "greed", "--all-databases")
    cut = await millhand("job", "list", "--limit", "1", "--all-databases")

    assert result.err == "warning: us: no job has kind 'greed'; did you mean 'greet'?\n"
    assert cut.err == "us: listed 1 job, the limit; for more add --limit with up to 10,000, or filter\n"


@pytest.mark.slow
@pytest.mark.usefixtures("directory")
async def test_doctor_reports_on_all_databases() -> None:
    """In a pipe, the name of the database is the first column, and begins the summary."""
    await millhand(
        "migrate", "down", "--line", "millhand", "--target-version", "3", "--yes", "--database", "us"
    )
    result = await millhand("doctor", "--only", "schema", "--all-databases")

    assert result.code == 0
    assert {line[0] for line in result.lines} == {"us"}
    assert [line.partition(":")[0] for line in result.err.splitlines()] == ["eu", "us"]
