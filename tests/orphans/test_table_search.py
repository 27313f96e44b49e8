"""Reading tables from end to end: many rows, long rows, many columns."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta

import pytest
from world import World

from millhand.orphans.removal.table_search import CHUNK, FIRST_ROWS, MAX_ROWS, _next_size

ROWS = f"INSERT INTO {{schema}}.posts (c1) SELECT 'row ' || n FROM generate_series(1, {3 * FIRST_ROWS}) AS n"


@pytest.mark.parametrize(
    ("size", "length", "expected"),
    [
        (256, 1_000, 512),
        (MAX_ROWS, 1_000, MAX_ROWS),
        (256, CHUNK * 3 // 4, 256),
        (256, CHUNK + 1, 128),
        (1, 9 * CHUNK, 1),
    ],
)
def test_the_number_of_rows_follows_their_length(size: int, length: int, expected: int) -> None:
    """Short rows are read in larger groups, long ones in smaller groups, at least one row at a time."""
    assert _next_size(size, length) == expected


@pytest.mark.slow
async def test_keys_are_found_in_the_last_row_and_in_the_last_column(world: World) -> None:
    """A table of many rows and of more columns than one function takes is read to its end, and each column has its name."""
    await world.pair("live")
    for key in ("first.pdf", "last.pdf", "none.pdf"):
        await world.put(key)
    columns = ", ".join(f"c{number} text" for number in range(130))
    await world.sql(f"CREATE TABLE {{schema}}.posts ({columns})")
    await world.sql("INSERT INTO {schema}.posts (c0) VALUES ('first.pdf')")
    await world.sql(ROWS)
    await world.sql("INSERT INTO {schema}.posts (c129) VALUES ('last.pdf')")

    report = await world.runs(timedelta(hours=2), timedelta(days=7), mentions=(f"{world.schema}.posts.c129",))

    assert (report.state, report.kept) == ("aborted", 2)
    assert len(report.abort_reasons) == 1
    assert f"got 'first.pdf' in {world.schema}.posts.c0, " in report.abort_reasons[0]


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_length_of_rows_read_together(world: World) -> None:
    """A table whose long values follow many short ones is searched with the memory of a few of the long ones."""
    await world.pair("live")
    for key in ("large.pdf", "small.pdf"):
        await world.put(key)
    await world.sql("CREATE TABLE {schema}.posts (title text, data bytea)")
    await world.sql(ROWS.replace("c1", "title"))
    await world.sql(
        "INSERT INTO {schema}.posts SELECT 'long', repeat('x', 250000)::bytea FROM generate_series(1, 40) AS n"
    )
    await world.sql(
        "INSERT INTO {schema}.posts VALUES ('last', (repeat('x', 250000) || ' large.pdf')::bytea)"
    )
    await world.run(after=timedelta(hours=2))

    tracemalloc.start()
    report = await world.run(after=timedelta(days=7), mentions=(f"{world.schema}.posts.data",))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (report.state, report.kept, report.deleted) == ("completed", 1, 1)
    assert peak < 5_000_000  # the long rows together have 10 MB
