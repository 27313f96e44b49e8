"""Claims about the command line as a whole."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli_pages import DOCS, PAGES, _commands
from cli_runner import millhand
from millhand.cli.main import COMMANDS, cli
from millhand.shells.cli.command import Command, Group
from millhand.version import VERSION

ALL_COMMANDS = {path: command for path, command, _ in _commands(cli, "millhand", None)}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_written_from_the_code(name: str) -> None:
    """The drawn pages in docs/ match the code; docs/.writers/cli_pages.py writes them."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]()


def test_commands_show_an_example_of_themselves() -> None:
    """Every command has a help text, which ends with an example of itself."""
    examples = {
        path: command.example
        for path, command in ALL_COMMANDS.items()
        if isinstance(command, Command | Group) and command.help
    }

    assert [path for path in ALL_COMMANDS if not examples.get(path, "").startswith(path)] == []


def test_command_list_has_each_help_text() -> None:
    """The list of commands has the first line of each command's help."""
    listed = {name: text for name, (_, text, *_rest) in COMMANDS.items()}

    assert listed == {
        name: ALL_COMMANDS[f"millhand {name}"].get_short_help_str(limit=200) for name in COMMANDS
    }


def test_lists_of_commands_show_whole_sentences() -> None:
    """No group cuts the help of a command in its list, on a terminal of 80 columns."""
    cut = []
    for path, group in ALL_COMMANDS.items():
        if isinstance(group, click.Group):
            settings = group.context_settings | {"terminal_width": 80}  # click keeps the first help option
            with click.Context(group, info_name=path, **settings) as context:
                listed = group.get_help(context).partition("Commands:")[2].splitlines()
            cut += [line for line in listed if line.endswith("...")]

    assert cut == []


def test_examples_can_be_parsed() -> None:
    """Every option in an example exists."""
    for path, command in ALL_COMMANDS.items():
        assert isinstance(command, Command | Group)
        options = {name for parameter in command.params for name in parameter.opts}
        words = [word for word in command.example.split("|")[0].split() if word.startswith("--")]
        if isinstance(command, Command):
            assert set(words) <= options, path


async def test_main_prints_its_version() -> None:
    """`--version` names the program and its version."""
    assert (await millhand("--version")).out == f"millhand {VERSION}\n"


async def test_main_without_a_command_shows_help() -> None:
    """Without a command the help is printed, with exit code 2."""
    result = await millhand()

    assert result.code == 2
    assert "Commands:" in result.err


async def test_main_reads_the_file_of_config_option(empty_directory: Path) -> None:
    """`--config` selects the file; a missing file is a usage error."""
    (empty_directory / "other.toml").write_text("[worker]\nmax_attempts = 7\n")

    shown = await millhand("--config", "other.toml", "worker", "--show-config")
    missing = await millhand("--config", "missing.toml", "worker", "--show-config")

    assert "max_attempts = 7" in shown.out
    assert (missing.code, missing.err) == (
        2,
        "error: missing.toml must be a readable file, got: No such file or directory\n",
    )


@pytest.mark.slow
def test_main_runs_as_a_module() -> None:
    """`python -m millhand` is the same command."""
    output = subprocess.run(
        [sys.executable, "-m", "millhand", "--version"], capture_output=True, text=True, check=True
    )

    assert output.stdout == f"millhand {VERSION}\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no file that is always full")
def test_main_reports_a_full_disk_in_one_line() -> None:
    """A full disk under the output gives one line and exit code 1, not a traceback."""
    with Path("/dev/full").open("w") as full:
        output = subprocess.run(
            [sys.executable, "-m", "millhand", "migrate", "sql"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (output.returncode, output.stderr) == (
        1,
        "error: the operating system reported: [Errno 28] No space left on device\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("job insert greet <&- >&- 2>&-", 0),
        pytest.param("job cancel --kind greet <&-", 2, marks=pytest.mark.slow),
        pytest.param("job insert greet >&-", 0, marks=pytest.mark.slow),
        pytest.param("worker --until-empty >&- 2>&-", 0, marks=pytest.mark.slow),
        pytest.param("job retry --kind greet --state completed <&-", 0, marks=pytest.mark.slow),
        pytest.param("job show 0 >&-", 2, marks=pytest.mark.slow),
    ],
)
async def test_main_works_with_closed_streams(project: Path, command: str, code: int) -> None:
    """Without standard streams a command does its work and returns the same exit code."""
    await millhand("job", "insert", "greet")
    shell = ["/bin/sh", "-c", f'exec "$0" -m millhand {command}', sys.executable]

    output = await asyncio.to_thread(subprocess.run, shell, capture_output=True, check=False, text=True)

    assert (output.returncode, "Traceback" in output.stderr) == (code, False)
    assert len((await millhand("job", "list", "--kind", "greet")).lines) == 1 + ("insert" in command)


@pytest.mark.slow
async def test_main_ignores_libpq_variables_for_the_embedded_database(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libpq's variables, set for other servers, do not affect the embedded database."""
    others = {
        "HOST": "nowhere.invalid",
        "PORT": "1",
        "USER": "ann",
        "DATABASE": "shop",
        "SSLMODE": "verify-full",
    }
    for name, value in others.items():
        monkeypatch.setenv(f"PG{name}", value)
    monkeypatch.setenv("MILLHAND_DATABASE_EMBEDDED", "true")

    output = await millhand("job", "insert", "greet")

    assert (output.code, output.out, output.err) == (0, "1\n", "")


@pytest.mark.slow
async def test_main_escapes_characters_that_the_output_lacks(project: Path) -> None:
    """A list is printed in any encoding; characters that it lacks are escaped."""
    await millhand("job", "insert", "größe_日本")
    command = [sys.executable, "-m", "millhand", "job", "list"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}

    output = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=False, env=environment
    )

    assert (output.returncode, output.stdout.split(b"\t")[2], output.stderr) == (
        0,
        b"gr\xf6\xdfe_\\u65e5\\u672c",
        b"",
    )


@pytest.mark.slow
async def test_main_prints_json_in_any_encoding(project: Path) -> None:
    """`--json` prints JSON in any encoding, with JSON escapes for characters that it lacks."""
    await millhand("job", "insert", "größe_日本_😀")
    command = [sys.executable, "-m", "millhand", "job", "list", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}

    output = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=True, env=environment
    )

    [job] = json.loads(output.stdout.decode("latin-1"))
    assert job["kind"] == "größe_日本_😀"


@pytest.mark.slow
def test_main_finds_help_without_the_database() -> None:
    """Help does not import the modules that only commands need."""
    code = (
        "import sys; from millhand.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"rich", "structlog", "millhand.embedded"}.isdisjoint(output.stderr.split())
    assert isinstance(cli, click.Group)
