"""Claims about `--database` and `--all-databases`."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli_runner import millhand
from millhand.cli.main import COMMANDS, cli
from millhand.shells.cli.command import Choice, Command
from two_databases import CLOSED_PORT, THREE, TWO

NAMES = "eu, us"
READERS = {
    "client list", "dead list", "doctor", "flow list", "job list", "limit halted", "limit list", "periodic list",
    "queue list", "schedule list",
}  # fmt: skip
WITHOUT = {"completion", "kinds list", "migrate sql", "probe", "worker"}


@pytest.fixture
def directory(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that names two databases, which no command of these tests reaches."""
    for name in ("EU", "US"):
        monkeypatch.setenv(f"{name}_DATABASE_URL", f"{CLOSED_PORT}?application_name={name}")
    (empty_directory / "millhand.toml").write_text(TWO)
    return empty_directory


def choices(command: click.Command, name: str) -> dict[str, Choice]:
    """Return the choice of each command without subcommands, by its words."""
    if isinstance(command, Command):
        return {name: command.choice}
    assert isinstance(command, click.Group)
    context = click.Context(command)
    subcommands = {each: command.get_command(context, each) for each in command.list_commands(context)}
    return {
        words: choice
        for each, found in subcommands.items()
        if found is not None
        for words, choice in choices(found, f"{name} {each}".strip()).items()
    }


def test_commands_that_change_something_take_one_database() -> None:
    """Only commands that read take `--all-databases`, and only those without a database take neither option."""
    found = choices(cli, "")

    assert {name for name, choice in found.items() if choice is Choice.ANY} == READERS
    assert {name for name, choice in found.items() if choice is Choice.NONE} == WITHOUT
    assert {name.partition(" ")[0] for name in found} == set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            "job list",
            f"--database must name one of the databases {NAMES}, got none; add --database NAME, or --all-databases",
        ),
        (
            "queue pause mail",
            f"--database must name one of the databases {NAMES}, got none; add --database NAME",
        ),
        (
            "job list --database ue",
            "--database must name a database of [databases], got 'ue'; known: 'eu', 'us'",
        ),
        (
            "doctor --database asia",
            "--database must name a database of [databases], got 'asia'; known: 'eu', 'us'",
        ),
        (
            "job list --database eu --all-databases",
            "--database must be left out with --all-databases, got 'eu'",
        ),
    ],
)
async def test_wrong_choice_of_a_database_is_refused(directory: Path, command: str, error: str) -> None:
    """The error names the option, the rule, the value and the databases; exit code 2."""
    result = await millhand(*command.split())

    assert (result.code, result.out, result.err) == (2, "", f"error: {error}\n")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            "job list --database eu",
            (
                "--database needs databases in [databases] of millhand.toml, got 'eu' and none there; write one such as "
                'eu = "EU_DATABASE_URL", or leave --database out'
            ),
        ),
        (
            "job list --database postgresql://mill:secret@db/shop",
            "--database must name a database of [databases], got a URL; set DATABASE_URL to it",
        ),
        (
            "job list --all-databases",
            (
                "--all-databases needs databases in [databases] of millhand.toml, got none there; write one such as "
                'eu = "EU_DATABASE_URL", or leave --all-databases out'
            ),
        ),
    ],
)
async def test_options_without_named_databases_are_refused(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: str
) -> None:
    """Without `[databases]`, the options have nothing to choose from, also where DATABASE_URL is set."""
    monkeypatch.setenv("DATABASE_URL", CLOSED_PORT)

    result = await millhand(*command.split())

    assert (result.code, result.err) == (2, f"error: {error}\n")


async def test_changing_command_does_not_take_all_databases(directory: Path) -> None:
    """A command that changes something has no such option."""
    result = await millhand("job", "delete", "1", "--all-databases")

    assert (result.code, result.err.splitlines()[0]) == (
        2,
        "error: millhand job delete has no option '--all-databases'; did you mean '--database'?",
    )


async def test_only_named_database_needs_no_option(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is named alone is the one that commands use; the error names its variable."""
    monkeypatch.setenv("EU_DATABASE_URL", CLOSED_PORT)
    (empty_directory / "millhand.toml").write_text('[databases]\neu = "EU_DATABASE_URL"\n')

    result = await millhand("job", "list")

    assert result.code == 1
    assert result.err.endswith("; check that the server runs and that EU_DATABASE_URL is right\n")


async def test_databases_with_one_url_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of one database would list its jobs twice."""
    monkeypatch.setenv("US_DATABASE_URL", f"{CLOSED_PORT}?application_name=EU")

    result = await millhand("job", "list", "--all-databases")

    assert (result.code, result.err) == (
        2,
        "error: each database must have a URL of its own, got the same for 'eu' and 'us'; correct US_DATABASE_URL\n",
    )


async def test_unset_variable_of_one_database_is_an_error_for_all(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is missing is wrong use, not a database that is away."""
    monkeypatch.delenv("ASIA_DATABASE_URL", raising=False)
    (directory / "millhand.toml").write_text(THREE)

    result = await millhand("job", "list", "--all-databases")

    assert (result.code, result.err) == (
        2,
        "error: variable ASIA_DATABASE_URL must have the URL of database 'asia', got none; set it in the environment\n",
    )
