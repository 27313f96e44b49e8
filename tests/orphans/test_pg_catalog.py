"""Reading PostgreSQL's catalog: the tables that can hold text, and the columns of one table."""

from __future__ import annotations

from world import World

from millhand.orphans.sources.pg_catalog import TextTable, table_columns, table_names, text_tables

KINDS = """
CREATE TABLE {schema}.kinds (
    number int PRIMARY KEY,
    title varchar(20) UNIQUE,
    tags text[],
    body jsonb,
    label name,
    removed_at timestamptz
)
"""


async def test_a_table_lists_the_columns_that_can_hold_text(world: World) -> None:
    """A table comes with its primary key, its deletion column, and the kind of each column that can hold text."""
    await world.sql(KINDS)

    [table] = [table for table in await text_tables(world.executor) if table.name == "kinds"]

    assert table == TextTable(
        schema=world.schema,
        name="kinds",
        is_foreign=False,
        is_partitioned=False,
        is_partition=False,
        is_visible=False,
        num_rows=-1,
        id="number",
        deleted_at="removed_at",
        columns={"title": "text", "tags": "array", "body": "json", "label": "other"},
    )


async def test_tables_without_text_and_our_own_tables_are_left_out(world: World) -> None:
    """Tables of numbers and the tables of Millhand and River are left out; partitions are marked."""
    await world.sql("CREATE TABLE {schema}.numbers (n int)")
    await world.sql("CREATE TABLE {schema}.parent (key text, n int) PARTITION BY LIST (n)")
    await world.sql("CREATE TABLE {schema}.child PARTITION OF {schema}.parent FOR VALUES IN (1)")

    tables = {
        table.name: table for table in await text_tables(world.executor) if table.schema == world.schema
    }

    await world.sql("DROP TABLE {schema}.parent")
    names = {"numbers", "child", "parent", "uploads", "river_job", "millhand_orphan_run"}
    assert names & set(tables) == {"child", "parent", "uploads"}
    assert [name for name, table in tables.items() if table.is_partitioned] == ["parent"]
    assert [name for name, table in tables.items() if table.is_partition] == ["child"]


async def test_a_column_has_the_type_below_its_domain(world: World) -> None:
    """A column over a domain has the domain as `type` and the base type as `type_name`."""
    await world.sql("CREATE DOMAIN {schema}.object_key AS varchar(200)")
    await world.sql("CREATE TABLE {schema}.files (id int UNIQUE, key {schema}.object_key, tags text[])")

    columns = await table_columns(world.executor, f"{world.schema}.files")

    assert list(columns) == ["id", "key", "tags"]
    assert (columns["key"].type, columns["key"].type_name) == (f"{world.schema}.object_key", "varchar")
    assert [column.is_unique for column in columns.values()] == [True, False, False]
    assert (columns["tags"].category, columns["tags"].element_category) == ("A", "S")
    assert await table_columns(world.executor, f"{world.schema}.nowhere") == {}


async def test_tables_outside_the_search_path_have_their_schema(world: World) -> None:
    """A table that the search path does not lead to is named with its schema."""
    assert f"{world.schema}.uploads" in await table_names(world.executor)
