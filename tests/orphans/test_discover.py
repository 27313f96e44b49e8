"""Discovery of reference sources: the sample of a bucket, and the sample of each table."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patient_executor import PatientExecutor
from world import World

from millhand.orphans.discovery.discover import FIRST_PAGE, _sample_sql, array_elements, discover, sample_keys
from millhand.orphans.sources.pg_catalog import text_tables


@pytest.mark.slow
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(values=st.lists(st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", codec="utf-8")))))
async def test_array_elements_are_those_of_postgresql(world: World, values: list[str | None]) -> None:
    """The parser returns every element of any array, except nulls."""
    [row] = await world.sql("SELECT $1::text[]::text AS written", values)

    assert array_elements(row["written"]) == [value for value in values if value is not None]


@pytest.mark.slow
async def test_a_sample_holds_keys_of_every_top_level_directory(world: World) -> None:
    """The sample of a bucket beyond one page holds keys of each top-level directory."""
    for number in range(FIRST_PAGE + 1):
        await world.put(f"a/{number:05}", b"")
    for name in ("b/x", "c/d/y", "z"):
        await world.put(name, b"")

    keys = await sample_keys(world.store)

    assert {"b/x", "c/d/y", "z"} <= set(keys)
    assert len(keys) == len(set(keys)) < FIRST_PAGE + 200


@pytest.mark.slow
async def test_a_large_table_is_sampled_and_not_scanned(world: World) -> None:
    """Discovery finds the column of a large table from some blocks, and names the index that it lacks."""
    await world.sql(
        "CREATE TABLE {schema}.large AS SELECT 'big/' || n || '.bin' AS key FROM generate_series(1, 50000) AS n"
    )
    await world.sql("ANALYZE {schema}.large")
    # A block holds 185 rows, so each block of the sample holds the key of an object.
    for number in range(1, 50_000, 150):
        await world.put(f"big/{number}.bin", b"")
    [large] = [table for table in await text_tables(world.executor) if table.name == "large"]
    plan = await world.sql(f"EXPLAIN {_sample_sql(large)}")

    found = await discover(world.executor, world.store, table_timeout=timedelta(seconds=60))

    [proposal] = found.proposals
    await world.sql("DROP TABLE {schema}.large")
    assert "Seq Scan" not in str(plan)
    assert (proposal.source.key, proposal.num_rows) == ("key", 50_000)
    assert 0 < proposal.num_sampled <= 1_000
    assert proposal.num_found > 0
    assert proposal.index == (
        f'create an index: CREATE INDEX CONCURRENTLY ON "{world.schema}"."large" ("key" COLLATE "C")'
    )


@pytest.mark.slow
async def test_a_table_that_cannot_be_read_is_reported(world: World) -> None:
    """A locked table is reported after its timeout, and the other tables are still read."""
    await world.pair("docs/a.pdf")
    await world.sql("CREATE TABLE {schema}.held (key text)")

    async with world.executor.begin() as theirs:
        await theirs.fetch(f"LOCK TABLE {world.schema}.held IN ACCESS EXCLUSIVE MODE")
        patient = PatientExecutor(world.executor, '"held"')
        found = await discover(patient, world.store, table_timeout=timedelta(seconds=0.5))

    await world.sql("DROP TABLE {schema}.held")
    assert [proposal.source.table for proposal in found.proposals] == [f"{world.schema}.uploads"]
    assert list(found.unread) == [f"{world.schema}.held"]
    assert (found.num_keys, found.num_unnamed) == (1, 0)
