"""Every example runs as its reader would run it, and prints what it says it prints."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

import pytest
from application import EXAMPLES, commands

from millhand.shells.settings.load import load_settings
from millhand.storage import open_store
from page_runner import Terminal, first_missing, seen_in_any_order, seen_in_order
from user_programs import PROJECT, environment, run_python

TESTS = sorted(EXAMPLES.glob("testing_*.py"))
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
PROGRAMS = sorted({*EXAMPLES.glob("*.py")}.difference(TESTS))
SETTINGS = sorted(EXAMPLES.glob("*.toml"))
LINES_MAX = 62
PYTEST_SECONDS = 120.0  # a pytest with all of its plugins takes a while to begin, and then makes a database
ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")


# A process each: in every run the one that people read first.
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == "insert_and_work" else [pytest.mark.slow])
        for path in PROGRAMS
    ],
)
async def test_example_prints_the_lines_in_its_docstring(program: Path, database_url: str) -> None:
    """An example prints the lines below `Prints:` in its docstring, and exits with 0."""
    ended = await run_python([str(program.relative_to(PROJECT))], database_url=database_url)

    assert (ended.stdout, ended.code) == (printed_by(program), 0), ended.stderr


def test_programs_for_newcomers_handle_a_forgotten_database_url() -> None:
    """No program of the examples, the README and the tutorials ends with KeyError: 'DATABASE_URL'."""
    pages = [PROJECT / "README.md", *PROJECT.glob("docs/tutorial/*.md"), *EXAMPLES.rglob("*.py")]

    assert [page.name for page in pages if 'environ["DATABASE_URL"]' in page.read_text()] == []


@pytest.mark.slow
async def test_example_without_a_database_says_what_to_set() -> None:
    """The only line is the remedy, without a traceback."""
    ended = await run_python(["examples/insert_and_work.py"], database_url="")

    assert (ended.code, ended.stderr) == (1, "set DATABASE_URL: see examples/README.md\n")


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
async def test_example_tests_pass(file: Path, postgres_server_url: str) -> None:
    """The command in the docstring runs the example's tests, with warnings as errors."""
    typed = re.findall(r"(?m)^    (?:PYTHONPATH=(\S+) )?pytest (.+)$", file.read_text())
    [(path, arguments)] = typed
    options = [
        "-c",
        "/dev/null",
        "--rootdir",
        str(PROJECT),
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        *ASYNCIO,
    ]

    ended = await run_python(
        ["-m", "pytest", *options, *arguments.split()],
        database_url=postgres_server_url,
        python_path=path,
        seconds=PYTEST_SECONDS,
    )

    assert (ended.code, " failed" in ended.stdout, " passed" in ended.stdout) == (0, False, True), (
        ended.stdout
    )


@pytest.mark.slow
async def test_examples_can_be_run_again(database_url: str) -> None:
    """An example leaves no data that changes the output of a later run, its own or another's."""
    program = EXAMPLES / "unique_jobs.py"
    for _ in range(2):
        ended = await run_python([str(program)], database_url=database_url)

        assert ended.stdout == printed_by(program), ended.stderr


@pytest.mark.parametrize("file", SETTINGS, ids=lambda path: path.name)
def test_example_settings_are_accepted(file: Path) -> None:
    """Each file is a valid millhand.toml, with an orphan cleanup and a store."""
    settings = load_settings(file, environment={})

    assert settings.config().queues
    assert settings.orphans_config().sources
    assert open_store(settings.get("storage.url")).url


def test_examples_are_short() -> None:
    """Each example fits on one screen."""
    too_long = {
        path.name: lines
        for path in (*PROGRAMS, *TESTS)
        if (lines := path.read_text().count("\n")) > LINES_MAX
    }

    assert too_long == {}


def test_readme_lists_each_example() -> None:
    """The tables in examples/README.md name exactly the examples that exist."""
    rows = [line for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("|")]
    listed = re.findall(r"\]\(([\w./]+)\)", "\n".join(rows))
    there = [path.name for path in (*PROGRAMS, *SETTINGS, *TESTS)] + [f"{name}/" for name in (*NAMES, "demo")]

    assert sorted(listed) == sorted(there)


def test_gallery_lists_each_application() -> None:
    """The page of applications links each of them, and a file of each to look at."""
    links = re.findall(r"examples/(\w+)(/[\w./]+)?\)", (PROJECT / "docs/how_to/examples.md").read_text())

    assert {name for name, file in links if not file} == set(NAMES)
    assert {name for name, file in links if file} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_applications_run_by_three_commands(name: str) -> None:
    """The README of an application has three commands, and lists what to look at."""
    assert len(commands(name)) == 3
    assert "\n## What to look at\n" in (EXAMPLES / name / "README.md").read_text()


@pytest.mark.slow
async def test_demo_logs_retries_heartbeats_and_orphans() -> None:
    """Within seconds the demo logs heartbeats, retries, discards and deleted orphans; Ctrl-C ends it."""
    terminal = Terminal()
    shown = [
        "… warn job errored … kind=make_thumbnail queue=default attempt=2 max_attempts=25 …",
        "… error job discarded … kind=pay_invoice queue=default attempt=3 max_attempts=3 …",
        "… info worker heartbeat …",
        "… info orphan cleanup completed mode=report objects=4 rows=4 … missing=1 … deleted=0 …",
        "… info orphan cleanup completed mode=delete objects=4 rows=4 … missing=1 … deleted=2 …",
        "… info thumbnail made key=cat.jpg attempt=3 …",
    ]
    has_shown, has_sent = seen_in_any_order(shown), seen_in_order(["… info email sent …"] * 2)

    code = await terminal.run(
        f"exec {sys.executable} -m examples.demo",
        PROJECT,
        environment(NO_COLOR="1", TERM="dumb"),
        interrupt_when=lambda text: has_shown(text) and has_sent(text),
    )

    assert (first_missing(["… info worker stopped …"], terminal.text), code) == (None, 0), terminal.text


def printed_by(program: Path) -> str:
    docstring = ast.get_docstring(ast.parse(program.read_text())) or ""
    return textwrap.dedent(docstring.partition("Prints:\n\n")[2]) + "\n"
