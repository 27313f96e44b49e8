"""The watcher of limits: what it reads and writes, when, and whom it wakes."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from factory import qualified
from millhand.core.errors import DriverError, SchemaError
from millhand.core.limit import Limit, QueueLimit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_update
from millhand.limits.store import limit_declare, limit_list, limit_partition_set, limit_set
from millhand.limits.watcher import REMEDY, LimitWatcher
from millhand.testing import Probe

FORM = {"global_limit": 3, "local_limit": 0, "partition": {"by_args": None, "by_kind": None}}
ONE, TWO = Limit(at_once=1), Limit(at_once=2)


def _any_queue(_queue: str) -> bool:
    return True


def new_watcher(driver: AsyncpgDriver, woken: list[str] | None = None, **settings: Any) -> LimitWatcher:
    known = {
        "declared": {},
        "is_worker": True,
        "listens": True,
        "schema": driver.schema,
        "works": _any_queue,
    } | settings
    return LimitWatcher(driver.pool, on_changed=[].append if woken is None else woken.append, **known)


@asynccontextmanager
async def running(watcher: LimitWatcher) -> AsyncIterator[LimitWatcher]:
    await watcher.start()
    try:
        yield watcher
    finally:
        await watcher.stop()


def values(limits: Mapping[str, QueueLimit]) -> dict[str, Limit]:
    return {queue: limit.limit for queue, limit in limits.items()}


async def set_form(driver: AsyncpgDriver, queue: str, form: Any) -> None:
    await driver.pool.run(queue_create_or_set_updated_at(queue))
    await driver.pool.run(queue_update(queue, metadata={} if form is None else {"concurrency": form}))


async def rows(driver: AsyncpgDriver) -> dict[str, Limit | None]:
    return {one.queue: one.row and one.row.limit for one in await driver.pool.run(limit_list())}


async def test_watcher_knows_the_limits_once_it_is_started(schema_driver: AsyncpgDriver) -> None:
    """A start returns after what code declares was written and the limits of all queues were read."""
    await schema_driver.pool.run(limit_set("other", TWO))

    async with running(new_watcher(schema_driver, declared={"mail": ONE})) as watcher:
        assert values(watcher.limits) == {"mail": ONE, "other": TWO}


async def test_watcher_wakes_the_queues_that_changed(schema_driver: AsyncpgDriver) -> None:
    """A read calls for each queue with a new, changed or removed limit, and for those that a notification named."""
    woken: list[str] = []
    watcher = new_watcher(schema_driver, woken)
    for queue in ("same", "named", "changed"):
        await schema_driver.pool.run(limit_set(queue, ONE))
    await watcher.read()
    assert woken == ["changed", "named", "same"]
    woken.clear()
    await schema_driver.pool.run(limit_set("changed", TWO))
    watcher.request_read("named")

    await watcher.read()
    await watcher.read()

    assert woken == ["changed", "named"]


async def test_watcher_reads_when_it_is_asked(schema_driver: AsyncpgDriver) -> None:
    """A request leads to a read that replaces the whole mapping; the old one stays as it was."""
    watcher = new_watcher(schema_driver)
    async with running(watcher):
        probe = Probe(watcher)
        before = watcher.limits
        await schema_driver.pool.run(limit_set("mail", ONE))
        watcher.request_read("mail")
        await probe.wait("read")

        assert (dict(before), values(watcher.limits)) == ({}, {"mail": ONE})


@pytest.mark.parametrize(
    ("is_worker", "listens", "has_limits", "expected"),
    [
        (True, True, True, None),
        (True, False, False, 60.0),
        (True, False, True, 60.0),
        (False, False, False, None),
        (False, False, True, 60.0),
    ],
)
async def test_watcher_polls_only_where_nobody_tells_it(
    schema_driver: AsyncpgDriver, is_worker: bool, listens: bool, has_limits: bool, expected: float | None
) -> None:
    """A client that listens never polls, and one that only inserts polls while there are limits."""
    if has_limits:
        await schema_driver.pool.run(limit_set("mail", ONE))
    watcher = new_watcher(schema_driver, is_worker=is_worker, listens=listens)
    await watcher.read()

    assert watcher.next_pause_seconds() == expected


@pytest.mark.parametrize(
    ("cleared", "left"),
    [
        pytest.param(None, {}, id="no form"),
        pytest.param({}, {}, id="empty form"),
        pytest.param(FORM | {"global_limit": 0}, {"mail": None}, id="form without limits"),
    ],
)
async def test_worker_writes_what_the_form_says(
    schema_driver: AsyncpgDriver, cleared: Any, left: dict[str, None]
) -> None:
    """A form of River UI becomes the limit. Without one, or if it limits nothing, the limit is what code declares."""
    watcher = new_watcher(schema_driver)
    await schema_driver.pool.run(limit_declare({"declared": TWO}))
    seen = []
    for form in (FORM, cleared, cleared):
        await set_form(schema_driver, "declared", form)
        await set_form(schema_driver, "mail", form)
        await watcher.read()
        seen.append((values(watcher.limits), await rows(schema_driver)))

    with_forms, without = {"declared": Limit(at_once=3), "mail": Limit(at_once=3)}, {"declared": TWO}
    assert seen == [(with_forms, with_forms), *[(without, without | left)] * 2]


async def test_empty_form_changes_no_limit_that_code_declares(schema_driver: AsyncpgDriver) -> None:
    """To River UI an empty object is no form: no part of the limit is lost."""
    declared = Limit(at_once=5, total=50)
    await schema_driver.pool.run(limit_declare({"mail": declared}))
    await set_form(schema_driver, "mail", {})
    watcher = new_watcher(schema_driver)

    await watcher.read()

    assert (values(watcher.limits), await rows(schema_driver)) == ({"mail": declared}, {"mail": declared})


async def test_form_without_limits_removes_what_was_set_before_it(schema_driver: AsyncpgDriver) -> None:
    """A limit that a command set and no code declared is removed by a later form, and one that was set later stays."""
    await schema_driver.pool.run(limit_set("mail", ONE))
    form = FORM | {"global_limit": 0}
    await set_form(schema_driver, "mail", form)
    watcher = new_watcher(schema_driver)

    await watcher.read()
    removed = values(watcher.limits)
    await schema_driver.pool.run(limit_set("mail", TWO, form=form))
    await watcher.read()

    assert (removed, values(watcher.limits)) == ({}, {"mail": TWO})


async def test_worker_leaves_what_was_set_after_the_form(schema_driver: AsyncpgDriver) -> None:
    """A form that was obeyed once does not replace a later setting."""
    watcher = new_watcher(schema_driver)
    await set_form(schema_driver, "mail", FORM)
    await watcher.read()
    await schema_driver.pool.run(limit_set("mail", TWO, form=FORM))

    await watcher.read()

    assert values(watcher.limits) == {"mail": TWO}


async def test_form_of_a_queue_that_a_client_does_not_work_is_not_obeyed(
    schema_driver: AsyncpgDriver,
) -> None:
    """If only Go works the queue, no client would admit the jobs that wait there."""
    await set_form(schema_driver, "mail", FORM)
    watcher = new_watcher(schema_driver, works=lambda queue: queue == "other")

    await watcher.read()

    assert (values(watcher.limits), await rows(schema_driver)) == ({}, {"mail": None})


async def test_invalid_setting_is_logged_once(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be obeyed leaves the limit as it is, and the log says why, once."""
    await schema_driver.pool.run(limit_set("mail", ONE))
    await schema_driver.pool.run(limit_set("broken", ONE))
    sql = "UPDATE /* schema */millhand_limit SET at_once = 0 WHERE queue = 'broken'"
    await schema_driver.pool.fetch(qualified(sql, schema_driver.pool))
    await set_form(schema_driver, "mail", {"global_limit": "x"})
    watcher = new_watcher(schema_driver)

    with caplog.at_level(logging.WARNING, "millhand"):
        await watcher.read()
        await watcher.read()

    assert values(watcher.limits) == {"mail": ONE}
    logged = [(record.getMessage().split(" ", 3)[:3], record.queue) for record in caplog.records]  # type: ignore[attr-defined]
    assert logged == [(["concurrency", "setting", "ignored"], queue) for queue in ("broken", "mail")]


@pytest.mark.slow
async def test_schema_without_the_tables_has_no_limits(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Before version 10 there are no limits, and nothing is logged; only a declared limit cannot be had."""
    await Migrator(schema_driver, "millhand").down(target=9)
    try:
        async with running(new_watcher(schema_driver)) as watcher:
            assert dict(watcher.limits) == {}
        assert caplog.records == []
        with pytest.raises(SchemaError) as raised:
            await new_watcher(schema_driver, declared={"mail": ONE}).start()
    finally:
        await Migrator(schema_driver, "millhand").up()

    schema = schema_driver.schema
    assert str(raised.value) == (
        f"schema {schema!r} is at migration 9 of line 'millhand', this release needs 16; "
        f"run: millhand migrate up --schema {schema}"
    )


async def test_worker_with_limits_needs_the_version_of_halts(schema_driver: AsyncpgDriver) -> None:
    """Of a schema at version 13, a worker reads that there is no limit; with one, its statements of slots would fail."""
    await Migrator(schema_driver, "millhand").down(target=13)
    try:
        async with running(new_watcher(schema_driver)) as watcher:
            assert dict(watcher.limits) == {}
        await schema_driver.pool.fetch(
            f"INSERT INTO {schema_driver.schema}.millhand_limit (queue, at_once, by_args, by_kind, in_order, is_shared) "
            "VALUES ('mail', 1, '{}', false, false, false)"
        )
        async with running(new_watcher(schema_driver, is_worker=False)) as inserter:
            assert values(inserter.limits) == {"mail": ONE}
        with pytest.raises(SchemaError, match="is at migration 13 of line 'millhand', this release needs 16"):
            await new_watcher(schema_driver).start()
    finally:
        await Migrator(schema_driver, "millhand").up()


@pytest.mark.parametrize("version", [10, 13])
async def test_worker_with_a_form_needs_the_version_of_halts(
    schema_driver: AsyncpgDriver, version: int
) -> None:
    """Before version 14, the form of River UI cannot be written; the error names the migration, and not a column."""
    await Migrator(schema_driver, "millhand").down(target=version)
    try:
        await set_form(schema_driver, "mail", FORM)
        async with running(new_watcher(schema_driver, works=lambda queue: queue == "other")) as watcher:
            assert dict(watcher.limits) == {}
        with pytest.raises(
            SchemaError, match=f"is at migration {version} of line 'millhand', this release needs 16"
        ):
            await new_watcher(schema_driver).start()
    finally:
        await Migrator(schema_driver, "millhand").up()


async def test_partition_settings_do_not_change_the_limits(schema_driver: AsyncpgDriver) -> None:
    """Partitions are not read: a client with a million of them knows its limits by one row."""
    await schema_driver.pool.run(limit_set("mail", ONE))
    await schema_driver.pool.run(limit_partition_set("mail", ["acme"], weight=2))
    watcher = new_watcher(schema_driver)

    await watcher.read()

    assert values(watcher.limits) == {"mail": ONE}


async def test_a_role_that_may_not_read_limits_works_without_them(
    schema_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client with rights of before version 10 warns once; one whose code declares a limit does not start."""
    await schema_driver.pool.run(limit_declare({"reports": ONE}))
    role = f"millhand_unlimited_{os.getpid()}"
    schema = qualified("/* schema */river_job", schema_driver.pool).partition(".")[0]
    await schema_driver.pool.execute_script(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}")
    try:
        driver = AsyncpgDriver(
            f"{postgres_url}{'&' if '?' in postgres_url else '?'}role={role}", schema_driver.schema
        )
        # As before version 10, the role may read River's tables.
        await schema_driver.pool.execute_script(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
        await schema_driver.pool.execute_script(f"REVOKE ALL ON {schema}.millhand_limit FROM {role}")
        await driver.open()
        async with running(new_watcher(driver, is_worker=False)):
            pass  # a client that only inserts needs no limits
        async with running(new_watcher(driver)) as watcher:
            await watcher.read()
            found = dict(watcher.limits)
        with pytest.raises(DriverError, match="permission denied for table millhand_limit") as raised:
            await new_watcher(driver, declared={"reports": TWO}).declare({"reports": TWO})
        await driver.close()
    finally:
        await schema_driver.pool.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert found == {}
    assert [(one.msg, one.levelno, one.remedy) for one in caplog.records] == [  # type: ignore[attr-defined]
        ("limits not readable", logging.WARNING, REMEDY)
    ]
    assert str(raised.value).endswith("; grant the rights that `millhand migrate sql --grants` prints")
