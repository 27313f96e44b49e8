"""The statements of the archive, each alone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from factory import insert_job, qualified
from millhand.archive.store import (
    ArchivePosition,
    NewFile,
    archive_begin,
    archive_erase_begin,
    archive_file_abandon,
    archive_file_begin,
    archive_file_commit,
    archive_file_drop,
    archive_file_expire,
    archive_file_forget,
    archive_file_get_removed,
    archive_file_list,
    archive_file_replace,
    archive_get_shape,
    archive_get_url,
    archive_page,
)
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START, END = ArchivePosition("-infinity", 0), ArchivePosition("2026-03-10 12:00:00+00", 7)


def new_file(key: str, at: datetime = AT) -> NewFile:
    return NewFile(
        key=key, day=at.date(), first_at=at, last_at=at, min_id=1, max_id=9, num_jobs=2, num_bytes=10
    )


async def keys(tx: Executor, **filters: object) -> list[str]:
    return [file.key for file in await tx.run(archive_file_list(**filters))]  # type: ignore[arg-type]


async def begin(tx: Executor) -> None:
    await tx.run(archive_begin(late=HOUR, max_delay=DAY, open_at_most=HOUR, url=None))


async def test_tables_are_found(tx: Executor) -> None:
    """A migrated schema has the tables; after they are gone, the answer is no."""
    assert await tx.run(archive_get_shape()) == (True, True)

    await tx.fetch(qualified("DROP TABLE /* schema */millhand_archive_cursor", tx))

    assert await tx.run(archive_get_shape()) == (False, False)


async def test_each_privilege_is_needed(tx: Executor) -> None:
    """A role that may read the tables and change one of them may not archive."""
    [[schema]] = [row.values() for row in await tx.fetch("SELECT current_schema()")]
    for sql in (
        "CREATE ROLE archive_guest",
        f"GRANT USAGE ON SCHEMA {schema} TO archive_guest",
        "GRANT SELECT ON /* schema */millhand_archive_cursor, /* schema */millhand_archive_file TO archive_guest",
        "GRANT ALL ON /* schema */millhand_archive_file TO archive_guest",
        "SET LOCAL ROLE archive_guest",
    ):
        await tx.fetch(qualified(sql, tx))

    assert await tx.run(archive_get_shape()) == (True, False)


async def test_a_file_is_added_once_and_only_where_it_begins(tx: Executor) -> None:
    """The cursor moves with the first of two files of the same jobs; the other one is refused, and can be dropped."""
    await begin(tx)
    for key in ("a", "b"):
        await tx.run(archive_file_begin(new_file(key), num_erasures=0))

    added = [
        await tx.run(archive_file_commit(key, begin=start, end=END, num_erasures=0))
        for key, start in (("a", END), ("missing", START), ("a", START), ("b", START), ("a", END))
    ]
    await tx.run(archive_file_drop("a"))
    await tx.run(archive_file_drop("b"))

    assert added == [False, False, True, False, False]
    assert (await keys(tx), await tx.run(archive_file_get_removed(limit=9))) == (["a"], ["b"])


async def test_files_end_by_age_and_by_neglect(tx: Executor) -> None:
    """A file that is not finished for long, and one that is older than kept, are removed; others stay."""
    await begin(tx)
    now = datetime.now(UTC)
    for key, at in (("old", now - 3 * DAY), ("new", now)):
        await tx.run(archive_file_begin(new_file(key, at), num_erasures=0))
        await tx.fetch(qualified("UPDATE /* schema */millhand_archive_file SET state = 'ready'", tx))
    await tx.run(archive_file_begin(new_file("writing"), num_erasures=0, now=now))
    await tx.run(archive_file_begin(new_file("left"), num_erasures=0, now=now - 2 * DAY))

    await tx.run(archive_file_expire(keep=None, unfinished_for=DAY))
    first = await tx.run(archive_file_get_removed(limit=9))
    await tx.run(archive_file_expire(keep=DAY, unfinished_for=DAY))
    second = await tx.run(archive_file_get_removed(limit=9))
    await tx.run(archive_file_forget(["left", "new"]))

    assert (first, second) == (["left"], ["left", "old"])
    assert await tx.run(archive_file_get_removed(limit=9)) == ["old"]
    assert await keys(tx) == ["new"]


async def test_an_erasure_ends_what_began_before_it(tx: Executor) -> None:
    """After an erasure, no file is begun or added with jobs that were read before; an archive that never began has none."""
    without = await tx.run(archive_erase_begin())
    await begin(tx)
    for key in ("a", "b"):
        await tx.run(archive_file_begin(new_file(key), num_erasures=0))

    number = await tx.run(archive_erase_begin())
    begun = [await tx.run(archive_file_begin(new_file(str(n)), num_erasures=n)) for n in (0, number)]
    added = await tx.run(archive_file_commit("a", begin=START, end=END, num_erasures=0))
    await tx.run(archive_file_abandon())
    late = await tx.run(archive_file_commit("1", begin=START, end=END, num_erasures=number))
    await tx.run(archive_file_drop("a"))
    await tx.run(archive_file_forget(["1", "a", "b"]))

    assert (without, number, begun, added, late) == (0, 1, [False, True], False, False)
    assert await tx.run(archive_file_get_removed(limit=9)) == ["1", "b"]
    assert await tx.run(archive_file_get_removed(limit=9, after="1")) == ["b"]


async def test_a_file_is_replaced_once(tx: Executor) -> None:
    """A new file takes the place of one that is still there, or nothing changes."""
    await begin(tx)
    await tx.run(archive_file_begin(new_file("old"), num_erasures=0))
    await tx.fetch(qualified("UPDATE /* schema */millhand_archive_file SET state = 'ready'", tx))
    for key in ("new", "late"):
        await tx.run(archive_file_begin(new_file(key), num_erasures=0))

    replaced = [
        await tx.run(archive_file_replace(key, new_key=new_key))
        for key, new_key in (("old", "gone"), ("old", "new"), ("old", "late"))
    ]
    listed = await keys(tx)
    removed = await tx.run(archive_file_replace("new", new_key=None))

    assert (replaced, listed, removed) == ([False, True, False], ["new"], True)
    assert await keys(tx) == []


async def test_files_are_listed_by_time_and_id(tx: Executor) -> None:
    """Only files that may hold what is searched for are read, the newest first."""
    await begin(tx)
    for day in range(3):
        await tx.run(archive_file_begin(new_file(str(day), AT + day * DAY), num_erasures=0))
    await tx.fetch(qualified("UPDATE /* schema */millhand_archive_file SET state = 'ready'", tx))

    assert await keys(tx) == ["2", "1", "0"]
    assert await keys(tx, limit=1) == ["2"]
    assert await keys(tx, since=AT + DAY) == ["2", "1"]
    assert await keys(tx, until=AT + DAY) == ["0"]
    assert [await keys(tx, id=id) for id in (0, 9)] == [[], ["2", "1", "0"]]


async def test_the_first_url_is_kept(tx: Executor) -> None:
    """A pass without a store has no URL; a later one writes its own, and no other replaces it."""
    seen = [await tx.run(archive_get_url())]
    for url in (None, "file:///a", "file:///b", None):
        start = await tx.run(archive_begin(late=HOUR, max_delay=DAY, open_at_most=HOUR, url=url))
        seen.append(start.url)

    assert seen == [None, None, "file:///a", "file:///a", "file:///a"]
    assert await tx.run(archive_get_url()) == "file:///a"


async def test_a_page_has_one_day(tx: Executor) -> None:
    """A page ends with its day; the page of a day without jobs is empty, and says that there are others."""
    for hours in (0, 11, 12):
        await insert_job(tx, JobState.COMPLETED, finalized_at=AT + hours * HOUR)
    query = {"horizon": "infinity", "is_nested": False, "limit": 10, "max_bytes": 10**6}

    page = await tx.run(archive_page(START, day=None, **query))  # type: ignore[arg-type]
    rest = await tx.run(archive_page(page.position, day=page.day, **query))  # type: ignore[arg-type]

    assert (page.num_found, page.num_jobs, page.day, page.lines.count("\n")) == (3, 2, date(2026, 3, 10), 2)
    assert (rest.num_found, rest.num_jobs, rest.lines) == (1, 0, "")
