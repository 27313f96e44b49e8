"""Claims about how `millhand worker` answers to wrong use; what it does when all is well stands in tests/acceptance."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from cli_room import millhand

from millhand.cli.worked import BUILT_INS, args_of

GOOD = """
from millhand import Config, Workers
workers = Workers()

@workers.add(kind="noop")
async def noop() -> None: ...

config = Config(workers=workers, queues={"default": 10})
def make(): return config
def fail(): raise LookupError("no settings")
def other(): return 3
idle = Config()
queueless = Config(workers=workers)
number = 3
"""

NO_CONFIG = "must be a millhand.Config or a function that returns one"

NO_PORT = (
    "[database] database URL must be like 'postgresql://user@host:5432/name', got a port that is not a number up to 65,535; "
    "write what is neither letter nor digit in a password as %XX"
)


@pytest.fixture(autouse=True)
def shop(elsewhere: Path) -> Iterator[Path]:
    """A directory with a user's module, which is forgotten afterwards."""
    (elsewhere / "shop.py").write_text(GOOD)
    (elsewhere / "broken.py").write_text("import shop\nvalue = {}['no such key']\n")
    (elsewhere / "needy.py").write_text("import no_such\n")
    path = sys.path[:]
    yield elsewhere
    sys.path[:] = path
    for name in ("shop", "broken", "needy"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "shop",
            "MODULE:CONFIG must be a module and a name in it, got 'shop'; write it like 'shop.jobs:config'",
        ),
        (
            "shop:",
            "MODULE:CONFIG must be a module and a name in it, got 'shop:'; write it like 'shop.jobs:config'",
        ),
        ("json:config", "module 'json' must have a 'config', got none"),
        ("shop:confg", "module 'shop' must have a 'confg', got none; did you mean 'config'?"),
        (
            "shop:number",
            "shop:number must be a millhand.Config or a function that returns one, got int; did you mean 'config'?",
        ),
        (
            "shop:other",
            "shop:other must be a millhand.Config or a function that returns one, got int; did you mean 'config'?",
        ),
        (
            "shop:Config",
            "shop:Config must be a millhand.Config or a function that returns one, got type; did you mean 'config'?",
        ),
        (
            "shop:idle",
            "shop:idle must have workers, got none; register one with @workers.add(), or name a MODULE:CONFIG",
        ),
        (
            "shop:queueless",
            "shop:queueless: queues must name at least one queue to be worked, got none; write {default = 100}",
        ),
    ],
)
async def test_worker_names_what_is_wrong_with_its_target(target: str, message: str) -> None:
    """A target that is none is wrong use, and the message says how to mend it."""
    result = await millhand("worker", target)

    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")


async def test_worker_says_where_it_looked_for_a_module(shop: Path) -> None:
    """A module that is not there is told with the directory that was searched."""
    result = await millhand("worker", "shpo.jobs:config")

    assert result.code == 2
    assert result.err == (
        f"error: module 'shpo.jobs' must be importable, found no 'shpo' in {str(shop)!r} or the installed packages; "
        "run it in the directory that holds it, or install it\n"
    )


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ("broken:config", "broken.py", "module 'broken' must be importable, got KeyError: 'no such key'"),
        (
            "needy:config",
            "needy.py",
            "module 'needy' must be importable, got ModuleNotFoundError: No module named 'no_such'",
        ),
        ("shop:fail", "shop.py", "shop:fail must return a millhand.Config, got LookupError: no settings"),
    ],
)
async def test_worker_shows_the_traceback_of_an_error_in_the_users_code(
    target: str, place: str, message: str
) -> None:
    """An error inside the user's module is shown with its traceback, which begins there and not in our machinery."""
    result = await millhand("worker", target)

    first, place_line, *_, last = result.err.splitlines()
    assert result.code == 2
    assert first == "Traceback (most recent call last):"
    assert place in place_line
    assert last == f"error: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--queue", "mail"), "--queue must be pairs like 'default:100,mail:5', got 'mail'"),
        (("--queue", "mail:0"), "--queue.mail: max_workers must be between 1 and 10,000, got 0"),
        (("--queue", "Mail!:1"), "--queue: queue must be 1 to 64 lower-case letters"),
        (("--soft-stop-timeout", "soon"), "--soft-stop-timeout must be a duration such as"),
        (
            ("shop:config", "--soft-stop-timeout", "-5"),
            "--soft-stop-timeout: soft_stop_timeout must not be negative",
        ),
    ],
)
async def test_worker_refuses_flags_by_their_name(arguments: tuple[str, ...], message: str) -> None:
    """A flag that cannot be is refused by its name, before anything is started."""
    result = await millhand("worker", *arguments)

    assert result.code == 2
    assert result.err.startswith(f"error: {message}")


async def test_worker_refuses_unknown_options_and_formats() -> None:
    """What click finds wrong is wrong use as well."""
    assert (await millhand("worker", "--log-format", "xml")).code == 2
    assert (await millhand("worker", "--no-such-option")).code == 2
    assert (await millhand("wroker")).code == 2


async def test_worker_refuses_a_file_before_anything_is_started(elsewhere: Path) -> None:
    """A mistake in millhand.toml is told at once, by file and key."""
    (elsewhere / "millhand.toml").write_text("[heartbeat]\nintervall = '5s'\n")

    result = await millhand("worker")

    assert result.code == 2
    assert (
        result.err
        == "error: millhand.toml: [heartbeat] has no setting 'intervall'; did you mean 'interval'?\n"
    )


async def test_worker_wants_something_to_do(elsewhere: Path) -> None:
    """With both built-in jobs disabled and no configuration of the user's there is nothing to run."""
    (elsewhere / "millhand.toml").write_text("[heartbeat]\nenabled = false\n[orphans]\nenabled = false\n")

    result = await millhand("worker")

    assert result.code == 2
    assert result.err == (
        "error: a worker must have something to do, got none; enable [heartbeat] or [orphans], or name a MODULE:CONFIG\n"
    )


async def test_worker_shows_its_settings_and_where_they_were_said(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--show-config` prints what is in force with its origin, starts nothing and shows no password."""
    (elsewhere / "millhand.toml").write_text("[worker]\nmax_attempts = 3\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:sesame@nowhere/shop")

    result = await millhand("worker", "shop:make", "--show-config", "--queue", "mail:5")

    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert result.code == 0
    assert lines[0] == "# DATABASE_URL: postgresql://ann:***@nowhere/shop"
    assert "queues = { mail = 5 } # --queue" in lines
    assert "max_attempts = 3 # millhand.toml" in lines
    assert 'job_timeout = "1m" # shop:make' in lines
    assert 'soft_stop_timeout = "8s" # default' in lines


async def test_worker_without_its_schema_says_what_to_run(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """A database of the user's is not migrated unasked: the worker refuses, exit code 1, and says what to run."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE SCHEMA empty_for_worker")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", "empty_for_worker")
    try:
        result = await millhand("job", "list")
    finally:
        await connection.execute("DROP SCHEMA empty_for_worker CASCADE")
        await connection.close()

    assert result.code == 1
    assert result.err == (
        "error: schema 'empty_for_worker' has no migrations of line 'main', this release needs 8; "
        "run: millhand migrate up --schema empty_for_worker\n"
    )


async def test_commands_say_when_the_database_does_not_answer(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that cannot be reached is an error of one line, without the password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:sesame@127.0.0.1:1/shop")

    result = await millhand("job", "list")

    assert result.code == 1
    assert result.err.startswith(
        "error: database 'postgresql://ann:***@127.0.0.1:1/shop' must be there and let us in, got ConnectionRefusedError: "
    )


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("ann:ses/ame@127.0.0.1/shop", NO_PORT),
        ("ann:sesame@127.0.0.1:99999/shop", NO_PORT),
        (
            "ann:sesame@127.0.0.1/shop?sslmode=yes",
            (
                "options of TLS must be usable, got `sslmode` parameter must be one of: "
                "disable, allow, prefer, require, verify-ca, verify-full"
            ),
        ),
    ],
)
async def test_commands_refuse_a_url_that_cannot_be_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, rest: str, said: str
) -> None:
    """A DATABASE_URL that is none is wrong use, told without any part of the password."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{rest}")

    result = await millhand("job", "list")

    assert (result.code, result.err) == (2, f"error: {said}\n")


async def test_worker_refuses_a_kind_that_is_built_in_twice(elsewhere: Path) -> None:
    """A kind `heartbeat` of the user's own, beside settings of the built-in one, is told with the remedy."""
    (elsewhere / "millhand.toml").write_text("[heartbeat]\ninterval = '5s'\n")
    (elsewhere / "shop.py").write_text(GOOD.replace('kind="noop"', 'kind="heartbeat"'))

    result = await millhand("worker", "shop:config")

    assert result.code == 2
    assert result.err == (
        "error: kind 'heartbeat' must be registered once, got it in shop:config and as the built-in job; "
        "write enabled = false below [heartbeat]\n"
    )


def test_built_in_jobs_have_the_kinds_that_are_looked_for() -> None:
    """The kind of a built-in job is known without the job, and is that of its args."""
    assert {section: args_of(section)[0].kind for section in BUILT_INS} == BUILT_INS
