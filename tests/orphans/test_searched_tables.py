"""The tables that the search for undeclared references reads, and their names in the settings."""

from __future__ import annotations

from dataclasses import replace

from world import World

from millhand.orphans.sources.searched_tables import SearchedColumn, SearchedTable, searched_tables

KINDS = "CREATE TABLE {schema}.kinds (n int, at date, ids int[], spot point, body text, data bytea, id uuid, tags uuid[])"


def column(name: str, kind: str = "text", *, is_readable: bool = True) -> SearchedColumn:
    return SearchedColumn(name=name, kind=kind, is_readable=is_readable)


def table(*columns: SearchedColumn) -> SearchedTable:
    return SearchedTable(
        oid=7, schema="shop", name="posts", is_filtered=False, is_plain=True, is_visible=True, columns=columns
    )


async def test_only_columns_that_can_hold_keys_are_listed(world: World) -> None:
    """Numbers, dates and shapes are left out; UUIDs are listed on request; our own tables never."""
    await world.sql(KINDS)
    await world.sql("CREATE MATERIALIZED VIEW {schema}.empty AS SELECT body FROM {schema}.kinds WITH NO DATA")

    tables = await searched_tables(world.executor, with_uuids=True)

    found = {one.name: one for one in tables if one.schema == world.schema}
    assert found["kinds"].columns == (
        column("body"),
        column("data", "bytes"),
        column("id", "uuid"),
        column("tags", "uuid"),
    )
    assert set(found) & {"empty", "kinds", "uploads"} == {"kinds", "uploads"}
    assert [name for name in found if name.startswith(("river_", "millhand_"))] == []
    [without] = [
        one for one in await searched_tables(world.executor, with_uuids=False) if one.name == "kinds"
    ]
    assert [one.name for one in without.columns] == ["body", "data"]


def test_a_setting_means_a_table_by_its_whole_name_or_by_the_search_path() -> None:
    """A bare name means a table that the search path leads to; another schema needs its name in front."""
    visible = table(column("body"), column("title"))
    hidden = replace(visible, is_visible=False)

    assert visible.without(["posts.body"]).columns == (column("title"),)
    assert hidden.without(["posts.body", "posts"]) == hidden
    assert hidden.without(["shop.*"]).columns == ()
    assert (visible.place("body"), hidden.place("body")) == ("posts.body", "shop.posts.body")


def test_what_may_not_be_read_is_the_table_or_some_columns() -> None:
    """A table with a policy, or without any readable column, is unreadable as a whole."""
    partly = table(column("body", is_readable=False), column("title"))
    closed = table(column("body", is_readable=False))

    assert (partly.unreadable, closed.unreadable) == (["body"], [None])
    assert replace(partly, is_filtered=True).unreadable == [None]
    assert partly.readable.columns == (column("title"),)
