"""Claims about `millhand migrate tune`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from cli_runner import millhand

from millhand.schema.autovacuum import TUNINGS, Change, changes

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
