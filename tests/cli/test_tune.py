"""Claims about `millhand migrate tune`."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from cli_runner import millhand
from millhand.db.schema.autovacuum import TUNINGS, Change, changes

TUNED = {name: tuning.value for name, tuning in TUNINGS.items()}


@pytest.fixture
async def schema_name(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> AsyncIterator[str]:
    """Yield a schema with River's tables in the database of DATABASE_URL, and drop it."""
    name = f"tune_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE SCHEMA {name}")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    yield name
    await connection.execute(f"DROP SCHEMA {name} CASCADE")
    await connection.close()


async def options(url: str, schema: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    found = await connection.fetchval(
        "SELECT reloptions FROM pg_class WHERE oid = $1::regclass", f"{schema}.river_job"
    )
    await connection.close()
    return dict(option.split("=") for option in found or ())


@pytest.mark.slow
async def test_tune_sets_and_resets_parameters(schema_name: str, postgres_url: str) -> None:
    """A dry run changes nothing, a second run has nothing to do, and a reset keeps other parameters."""
    await millhand("migrate", "up", "--schema", schema_name, "--line", "main")
    before = await options(postgres_url, schema_name)
    dry = await millhand("migrate", "tune", "--schema", schema_name, "--dry-run", "--show-sql")
    unchanged = await options(postgres_url, schema_name)
    tuned = await millhand("migrate", "tune", "--schema", schema_name)
    set_ = await options(postgres_url, schema_name)
    again = await millhand("migrate", "tune", "--schema", schema_name)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"ALTER TABLE {schema_name}.river_job SET (fillfactor = 90)")
    await connection.close()
    reset = await millhand("migrate", "tune", "--schema", schema_name, "--reset")
    after = await options(postgres_url, schema_name)

    assert (before, unchanged) == ({}, {})
    assert dry.out.startswith(
        "would set river_job autovacuum_vacuum_scale_factor = 0: the threshold is a number of dead rows, "
    )
    assert dry.out.endswith(
        f'\nALTER TABLE "{schema_name}".river_job SET (autovacuum_vacuum_scale_factor = 0, '
        "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0, "
        "autovacuum_analyze_scale_factor = 0.05, vacuum_truncate = off);\n"
    )
    assert (tuned.code, set_) == (0, TUNED)
    assert tuned.out.splitlines()[-1] == "set river_job vacuum_truncate = off"
    assert (again.code, again.out) == (0, "nothing to do\n")
    assert reset.out.splitlines()[0] == "reset river_job autovacuum_vacuum_scale_factor (was 0)"
    assert after == {"fillfactor": "90"}


async def test_tune_requires_the_table(schema_name: str) -> None:
    """Without the table the error names the next step."""
    output = await millhand("migrate", "tune", "--schema", schema_name)

    assert output.code == 1
    assert output.err == (
        f"error: table river_job must exist to be tuned, found none in schema '{schema_name}'; "
        "run: millhand migrate up\n"
    )


def test_tune_changes_only_differing_parameters() -> None:
    """A parameter with another value is changed and printed with its old value; an equal one is kept."""
    found = TUNED | {"vacuum_truncate": "false", "autovacuum_vacuum_threshold": "50"}

    assert changes(found, is_reset=False) == [Change("autovacuum_vacuum_threshold", "50", "20000")]
    assert changes({}, is_reset=True) == []


async def search_indexes(url: str, schema: str) -> list[str]:
    connection = await asyncpg.connect(url)
    names = await connection.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname = $1 AND indexdef LIKE '%USING gin%' ORDER BY 1",
        schema,
    )
    await connection.close()
    return [row[0] for row in names]


@pytest.mark.slow
async def test_tune_drops_and_builds_search_indexes(schema_name: str, postgres_url: str) -> None:
    """Each step has a line, `validate` prints that they are off, and the parameters of the table stay as they are."""

    async def tune(*arguments: str) -> tuple[int, list[str], str]:
        result = await millhand("migrate", "tune", "--schema", schema_name, *arguments)
        lines = [re.sub(r"\d+\.\d (MiB|s)", r"N \1", line) for line in result.out.splitlines()]
        return result.code, lines, result.err

    async def left() -> list[str]:
        return await search_indexes(postgres_url, schema_name)

    args, metadata = "river_job_args_index", "river_job_metadata_index"
    await millhand("migrate", "up", "--schema", schema_name)
    valid = await millhand("migrate", "validate", "--schema", schema_name)
    dry = await tune("--without-search-indexes", "--dry-run", "--show-sql")
    unchanged = await left()
    dropped = await tune("--without-search-indexes")
    gone, again = await left(), await tune("--without-search-indexes")
    invalid = await millhand("migrate", "validate", "--schema", schema_name)
    up = await millhand("migrate", "up", "--schema", schema_name)
    still_gone = await left()
    built = await tune("--with-search-indexes")

    assert (valid.code, valid.err) == (0, "all versions are applied\n")
    assert dry[1][:2] == [f"would drop {args}, N MiB", f"would drop {metadata}, N MiB"]
    assert dry[1][-1] == f'DROP INDEX CONCURRENTLY IF EXISTS "{schema_name}"."{metadata}";'
    assert unchanged == [args, metadata]
    assert dropped[:2] == (0, [f"dropped {args}, N MiB (N s)", f"dropped {metadata}, N MiB (N s)"])
    assert "Searches by args and metadata have no index" in dropped[2]
    assert (gone, again, still_gone) == ([], (0, ["nothing to do"], ""), [])
    assert (invalid.code, invalid.err) == (
        0,
        (
            f"all versions are applied; the search indexes are off: {args}, {metadata}; to build them, run: "
            f"millhand migrate tune --with-search-indexes --schema {schema_name}\n"
        ),
    )
    assert (up.code, up.out) == (0, "nothing to do\n")
    assert built == (0, [f"built {args} (N s)", f"built {metadata} (N s)"], "")
    assert (await left(), await options(postgres_url, schema_name)) == ([args, metadata], {})


async def test_tune_refuses_a_reset_with_indexes(schema_name: str) -> None:
    """A reset of the parameters and a change of indexes are two calls."""
    output = await millhand("migrate", "tune", "--schema", schema_name, "--reset", "--with-search-indexes")

    assert (output.code, output.err) == (
        2,
        "error: --reset must be used without the options of search indexes; run the command twice\n",
    )
