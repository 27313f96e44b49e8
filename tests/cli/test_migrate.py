"""Claims about `millhand migrate`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from answering_terminal import AnsweringTerminal
from cli_runner import millhand
from millhand.core.secret import masked_url
from millhand.db.schema.migrator import Direction, migration_sql
from planted import PLAIN


@pytest.fixture
async def schema_name(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> AsyncIterator[str]:
    """Yield an empty schema in the database of DATABASE_URL, and drop it."""
    name = f"migrate_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE SCHEMA {name}")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    yield name
    await connection.execute(f"DROP SCHEMA {name} CASCADE")
    await connection.close()


async def test_migrate_up_applies_every_line(schema_name: str) -> None:
    """`up` applies all lines and prints each version; `list` and `validate` agree; a second `up` does nothing."""
    invalid = await millhand("migrate", "validate", "--schema", schema_name)
    up = await millhand("migrate", "up", "--schema", schema_name)
    valid = await millhand("migrate", "validate", "--schema", schema_name)
    listed = await millhand("migrate", "list", "--schema", schema_name)
    again = await millhand("migrate", "up", "--schema", schema_name)

    assert invalid.code == 1
    assert invalid.err.startswith("error: all versions must be applied, missing: main 1, main 2, ")
    assert up.code == 0
    assert up.out.startswith("applied version 001 of line main: create river migration (")
    assert "applied version 001 of line millhand: " in up.out
    assert (valid.code, valid.err) == (0, "all versions are applied\n")
    assert {line[2] for line in listed.lines} == {"true"}
    assert (again.code, again.out) == (0, "nothing to do\n")


async def test_migrate_up_stops_at_its_target(schema_name: str) -> None:
    """A target or a number of steps applies to River's line only; a dry run changes nothing."""
    dry = await millhand(
        "migrate", "up", "--schema", schema_name, "--dry-run", "--max-steps", 1, "--show-sql"
    )
    up = await millhand("migrate", "up", "--schema", schema_name, "--target-version", 2)
    listed = await millhand("migrate", "list", "--schema", schema_name, "--line", "main", "--json")

    assert dry.out.startswith("would apply version 001 of line main: create river migration\n\n")
    assert f'"{schema_name}".river_migration' in dry.out
    assert [line.partition(":")[0] for line in up.out.splitlines()] == [
        "applied version 001 of line main",
        "applied version 002 of line main",
    ]
    assert [row["applied"] for row in listed.json] == [True, True] + [False] * 6


@pytest.mark.slow
async def test_migrate_down_asks_first(
    schema_name: str, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """`down` needs `--line`, and in a pipe `--yes`, and reverts one version by default. The question names the database."""
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}sslpassword={PLAIN}"
    monkeypatch.setenv("DATABASE_URL", url)
    await millhand("migrate", "up", "--schema", schema_name, "--line", "main")

    down = ("migrate", "down", "--schema", schema_name)
    unnamed = [await millhand(*down, "--yes"), await millhand("migrate", "sql", "--down")]
    asked = await millhand(*down, "--line", "main")
    asked_more = await millhand(*down, "--line", "main", "--max-steps", 3)
    one = await millhand(*down, "--line", "main", "--yes")
    everything = await millhand(*down, "--line", "main", "--target-version", 0, "--yes")
    listed = await millhand("migrate", "list", "--schema", schema_name)

    assert (asked.code, asked.err) == (
        2,
        (
            f"error: drop version 8 of line main and its data from schema {schema_name!r} of database "
            f"{masked_url(url)!r} must be confirmed, got no terminal to ask on; repeat it with --yes\n"
        ),
    )
    assert "sslpassword=***" in asked.err
    assert asked_more.err.startswith("error: drop versions 8 to 6 of line main and their data from schema ")
    assert [(result.code, result.out, result.err) for result in unnamed] == [
        (
            2,
            "",
            "error: --line must name the line to revert, got none; write --line main or --line millhand\n",
        )
    ] * 2
    assert one.out.startswith("reverted version 008 of line main: ")
    assert len(one.lines) == 1
    assert len(everything.lines) == 7
    assert {line[2] for line in listed.lines} == {"false"}


@pytest.mark.slow
async def test_migrate_prints_each_version_at_its_commit(schema_name: str, postgres_url: str) -> None:
    """If a later version fails, the command prints those before it: they stay as they are now."""
    await millhand("migrate", "up", "--schema", schema_name)
    connection = await asyncpg.connect(postgres_url)
    line = ("--schema", schema_name, "--line", "millhand")
    once = (*line, "--lock-timeout", "50ms", "--lock-tries", 1)

    # Version 14 needs this table alone.
    lock = f"LOCK TABLE {schema_name}.millhand_limit_partition IN ACCESS SHARE MODE"
    async with connection.transaction():
        await connection.execute(lock)
        down = await millhand("migrate", "down", *once, "--max-steps", 3, "--yes")
    await millhand("migrate", "down", *line, "--max-steps", 2, "--yes")
    async with connection.transaction():
        await connection.execute(lock)
        up = await millhand("migrate", "up", *once)
    await connection.close()

    assert (down.code, [text.partition(":")[0] for text in down.out.splitlines()]) == (
        1,
        ["reverted version 016 of line millhand", "reverted version 015 of line millhand"],
    )
    assert down.err.startswith("error: version 14 (halts) of line 'millhand' must migrate down, got ")
    assert (up.code, [text.partition(":")[0] for text in up.out.splitlines()]) == (
        1,
        ["applied version 013 of line millhand"],
    )
    assert up.err.startswith("error: version 14 (halts) of line 'millhand' must migrate up, got ")


@pytest.mark.slow
async def test_migrate_down_reverts_only_what_it_asked_about(
    schema_name: str, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """If another migrator reverts the planned version during the question, the command does not revert the one below."""
    await millhand("migrate", "up", "--schema", schema_name)
    revert = migration_sql("millhand", versions=[16], direction=Direction.DOWN, schema=schema_name)

    def meanwhile() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(revert)

    monkeypatch.setattr("sys.stdin", AnsweringTerminal(meanwhile))
    down = await millhand("migrate", "down", "--schema", schema_name, "--line", "millhand")
    listed = await millhand("migrate", "list", "--schema", schema_name, "--line", "millhand", "--json")

    assert (down.code, down.out.strip()) == (0, "nothing to do")
    assert [row["version"] for row in listed.json if row["applied"]] == [*range(1, 16)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("up", "--line", "mian"), 2, "migration line must be one of 'main', 'millhand', got 'mian'"),
        (("up", "--target-version", "99"), 2, "target must be a version of line 'main', 1 to 8, got 99"),
        (
            ("up", "--schema", "no_such_schema"),
            1,
            (
                "schema must exist before it is migrated, found none named 'no_such_schema'; "
                'run: CREATE SCHEMA "no_such_schema"'
            ),
        ),
        (
            ("up", "--line", "millhand"),
            1,
            "line 'millhand' needs line 'main' at version 5 or later; run: millhand migrate up --line main --schema {here}",
        ),
        (
            ("down", "--line", "main", "--target-version", "3"),
            1,
            "target of a migration down must be applied, got version 3 of line 'main'",
        ),
        (("sql", "--version", "42"), 2, "version must be one of line 'main', 1 to 8, got 42"),
    ],
)
async def test_migrate_refuses_what_cannot_be(
    schema_name: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """A wrong version, line or schema is an error with a remedy, and changes nothing."""
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", schema_name)

    result = await millhand("migrate", *arguments)
    listed = await millhand("migrate", "list")

    expected = f"error: {message.replace('{here}', schema_name)}\n"
    assert (result.code, result.out, result.err) == (code, "", expected)
    assert {line[2] for line in listed.lines} == {"false"}


async def test_migrate_leaves_a_foreign_table_alone(schema_name: str, postgres_url: str) -> None:
    """An unrelated table with a needed name is reported, and nothing changes."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE TABLE {schema_name}.river_job (mine text)")

    result = await millhand("migrate", "up", "--schema", schema_name)

    columns = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = 'river_job'",
        schema_name,
    )
    await connection.close()
    assert result.code == 1
    assert result.err == (
        "error: schema must have no tables or types with River's names before the first migration, got 'river_job'; "
        "rename it, or choose another schema\n"
    )
    assert [row["column_name"] for row in columns] == ["mine"]


async def test_migrate_sql_needs_no_database(empty_directory: Path) -> None:
    """`sql` prints one transaction per version, in the given schema, without a database."""
    result = await millhand("migrate", "sql", "--version", 1, "--schema", "engine")
    down = await millhand("migrate", "sql", "--version", 1, "--down", "--line", "main")

    assert result.code == 0
    assert result.out.startswith("-- line main, version 001 create river migration, up\nBEGIN;\n")
    assert '"engine".river_migration' in result.out
    assert "DROP TABLE" in down.out
    assert list(empty_directory.iterdir()) == []


async def test_migrate_sql_prints_grants_with_role_names(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--grants` prints one transaction with the settings' schema and the given names, without a database."""
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", "shop")

    plain = await millhand("migrate", "sql", "--grants")
    named = await millhand(
        "migrate", "sql", "--grants", "--schema", "jobs", "--role", "worker=jobs-worker", "--river-inserter"
    )

    assert (plain.code, plain.err) == (0, "")
    assert 'ON TABLE "shop".river_job TO "millhand_inserter";' in plain.out
    assert "UPDATE (kind)" not in plain.out
    assert (plain.out.count("BEGIN;"), plain.out.count("COMMIT;")) == (1, 1)
    assert '"jobs".river_job_id_seq,' in named.out
    assert 'TO "jobs-worker";' in named.out
    assert 'GRANT UPDATE (kind) ON TABLE "jobs".river_job TO "millhand_inserter";' in named.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--grants", "--role", "wroker=x"),
            "'wroker=x'; write it like 'worker=shop_worker'; did you mean 'worker'?",
        ),
        (("--grants", "--role", "worker"), "'worker'; write it like 'worker=shop_worker'"),
        (("--grants", "--line", "main"), "--line; leave them out"),
        (("--role", "worker=x"), "--role and --river-inserter must be used with --grants, got none; add it"),
    ],
)
async def test_migrate_sql_refuses_wrong_grants(
    empty_directory: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Conflicting options and unknown roles are errors with a remedy, and nothing is printed."""
    result = await millhand("migrate", "sql", *arguments)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --")
    assert result.err.endswith(f"{message}\n")
