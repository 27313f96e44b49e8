"""Claims about the database of a command."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from cli_runner import millhand
from millhand.db.driver.url import createdb_options

UNREADABLE = "database URL must be like 'postgresql://user@host:5432/name', got"
NO_PORT = (
    f"{UNREADABLE} a port that is not a number up to 65,535; "
    "write what is neither letter nor digit in a password as %XX"
)


async def test_worker_without_its_schema_names_the_command(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """The worker does not migrate the user's database: exit code 1, and the error names the command."""
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
        "error: Millhand's tables are missing in schema 'empty_for_worker' (this release needs version 8 of line main); "
        "run: millhand migrate up --schema empty_for_worker\n"
    )


async def test_commands_report_an_unreachable_database(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable database gives one line without the password."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:sesame@127.0.0.1:1/shop")

    result = await millhand("job", "list")

    assert result.code == 1
    assert result.err.startswith(
        "error: database 'postgresql://ann:***@127.0.0.1:1/shop' must accept connections, got ConnectionRefusedError: "
    )


async def test_commands_name_the_way_to_create_a_missing_database(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """The error for a database that does not exist ends with the command that creates it there, on each driver."""
    url = postgres_url.replace(urlsplit(postgres_url).path, "/shop%20of%20nobody", 1)
    options = createdb_options(url)
    missing = f"database \"shop of nobody\" does not exist; create it: createdb {options}'shop of nobody'\n"
    assert options.startswith("-h ")

    for driver, library in (
        ("postgresql", ""),
        ("postgresql+psycopg", "OperationalError: connection failed: "),
    ):
        monkeypatch.setenv("DATABASE_URL", url.replace("postgresql", driver, 1))
        result = await millhand("job", "list")
        got = result.err.partition(", got ")[2]
        assert (result.code, got.startswith(library), got.endswith(missing)) == (1, True, True), got


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("ann:ses/ame@127.0.0.1/shop", NO_PORT),
        ("ann:sesame@127.0.0.1:99999/shop", NO_PORT),
        ("ann:ses#ame@127.0.0.1/shop", f"{UNREADABLE} a '#'; write a '#' in a password as %23"),
        (
            "ann:ses@me@127.0.0.1/shop",
            f"{UNREADABLE} more than one '@' before the host; write an '@' in a password as %40",
        ),
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
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, rest: str, said: str
) -> None:
    """An invalid DATABASE_URL is a usage error without any part of the password."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{rest}")

    result = await millhand("job", "list")

    assert (result.code, result.err) == (2, f"error: {said}\n")


NO_DATABASE = (
    "error: DATABASE_URL must be set, got none; set it to your database, or start an embedded PostgreSQL in "
    ".millhand/postgres: with millhand worker --embedded, or for all commands with embedded = true in [database] "
    "of millhand.toml\n"
)
EMPTY = "error: DATABASE_URL must name a database, got an empty value; set it, or unset it\n"


async def test_commands_start_no_database_that_nobody_asked_for(
    worker_modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DATABASE_URL, and with an empty one, a command starts nothing, and its error names what to set."""
    commands = [
        ("worker", "shop:config"),
        ("worker", "shop:config", "--processes", "2"),
        ("worker",),
        ("migrate", "up"),
        ("job", "list"),
    ]
    (worker_modules / "before").touch()
    before = set(worker_modules.iterdir())

    unset = [await millhand(*command) for command in commands]
    monkeypatch.setenv("DATABASE_URL", "")
    empty = [await millhand(*command) for command in (*commands, ("worker", "--embedded"))]

    assert [(one.code, one.out, one.err) for one in unset] == [(2, "", NO_DATABASE)] * 5
    assert [(one.code, one.out, one.err) for one in empty] == [(2, "", EMPTY)] * 6
    assert {path for path in worker_modules.iterdir() if path.name != "__pycache__"} == before


async def test_show_config_says_which_database_a_worker_would_use(
    worker_modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line has the URL, the embedded database, or that the worker would not start."""

    async def first(*flags: str) -> str:
        return (await millhand("worker", "shop:config", "--show-config", *flags)).out.splitlines()[0]

    none, flag = await first(), await first("--embedded")
    (worker_modules / "millhand.toml").write_text("[database]\nembedded = true\n")
    file = await first()
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann@shop/jobs")
    url = await first("--embedded")

    assert none == "# DATABASE_URL: not set, and embedded is false: the worker does not start"
    assert flag == file == "# DATABASE_URL: not set: an embedded PostgreSQL in .millhand/postgres"
    assert url == "# DATABASE_URL: postgresql://ann@shop/jobs"
