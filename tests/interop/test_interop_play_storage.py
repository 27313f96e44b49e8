"""Scenarios of River's conformance suite about values and rows, played between both adapters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conformance_pair import Pair, Side
from interop_harness import BOTH_WAYS, LANGUAGES, Language

from river_adapter import CONTRACT

ALL_STATES = sorted(CONTRACT["$defs"]["job_state"]["enum"])
UNIQUE_OPTS: dict[str, Any] = {
    "by_args": {"unique": {"by_args": True}},
    "by_args_exclude_kind": {"unique": {"by_args": True, "exclude_kind": True}},
    "by_period": {"scheduled_at": "2031-02-03T04:05:06.789Z", "unique": {"by_period_ms": 3_600_000}},
    "by_queue": {"queue": "unique_queue", "unique": {"by_queue": True}},
    "by_state": {"unique": {"by_state": ["available", "pending", "running", "scheduled"]}},
    "combined": {
        "queue": "unique_queue",
        "scheduled_at": "2031-02-03T04:05:06.789Z",
        "unique": {"by_args": True, "by_period_ms": 86_400_000, "by_queue": True, "by_state": ALL_STATES},
    },
}
LISTS: list[tuple[str, list[str]]] = [
    ("id", []),
    ("scheduled_at", ["scheduled"]),
    ("time", ["scheduled"]),
    ("finalized_at", ["cancelled"]),
    ("time", ["cancelled", "scheduled"]),
    ("time", ["scheduled", "cancelled"]),
]


async def ids_of(side: Side, **params: Any) -> list[int]:
    """Return the ids of a list."""
    return [job["id"] for job in (await side.call("list", **params))["jobs"]]


async def test_adapters_play_handshake(pair: Pair) -> None:
    """adapter_handshake_and_capabilities; Millhand's adapter has the full profile, and both refuse what is unknown."""
    python = await pair.sides["python"].call("handshake")
    go = await pair.sides["go"].call("handshake")

    full = CONTRACT["full_profile"]
    found = {"name": python["profile"], "capabilities": python["capabilities"], "methods": python["methods"]}
    assert found == full
    assert python["application_name"] == pair.sides["python"].application_name
    for name in ("adapter_version", "backend", "migration_lines", "protocol_revision"):
        assert python[name] == go[name], name
    for side in pair.sides.values():
        assert await side.code("not_a_contract_method") == "method_not_found"
        assert await side.code("insert", message="m", opts={"not_an_option": True}) == "invalid_params"
        for option in ("elect_interval_ms", "rescuer_interval_ms", "scheduler_interval_ms"):
            assert await side.code("start", client_id="c", **{option: 20}) == "unsupported"


@pytest.mark.parametrize("opts", UNIQUE_OPTS.values(), ids=UNIQUE_OPTS)
async def test_adapters_play_unique_columns(pair: Pair, opts: dict[str, Any]) -> None:
    """unique_column_bytes; both store the same key and mask, and both read them alike."""
    columns = []
    for writer in pair.sides.values():
        await writer.call("reset")
        job = await writer.insert(message="m", opts=opts)
        rows = [await side.call("raw_job_row", id=job["id"]) for side in pair.sides.values()]
        assert rows[0] == rows[1]
        columns.append((rows[0]["unique_key"], rows[0]["unique_states"]))

    assert columns[0] == columns[1]
    assert None not in columns[0]


@pytest.mark.parametrize("case", ["by_args", "by_period", "by_queue", "by_state"])
@pytest.mark.parametrize(("winner", "loser"), BOTH_WAYS)
async def test_adapters_play_concurrent_unique_inserts(
    pair: Pair, winner: Language, loser: Language, case: str
) -> None:
    """cross_language_unique_conflict; an insert waits for the other's transaction and returns its job."""
    first, second = pair.sides[winner], pair.sides[loser]
    job = {"message": case, "opts": UNIQUE_OPTS[case]}
    for side in (first, second):
        await side.call("tx_begin", handle="h")
    won = await first.call("tx_insert", handle="h", job=job)
    inserting = asyncio.ensure_future(second.call("tx_insert", handle="h", job=job))
    await pair.until_blocked(second)
    assert not inserting.done()

    await first.call("tx_commit", handle="h")
    lost = await inserting
    await second.call("tx_commit", handle="h")

    assert lost == won
    assert await ids_of(first) == [won["id"]]


async def test_adapters_play_rows_with_all_fields(pair: Pair) -> None:
    """job_row_round_trip_all_fields; a full row and numbers of any size read the same in both adapters."""
    metadata = (
        '{"negative":-9223372036854775808,"big_integer":123456789012345678901234567890,'
        '"beyond_float":1e400,"long_decimal":0.1000000000000000055511151231257827}'
    )
    for writer in pair.sides.values():
        full = await writer.call("raw_insert_full_row")
        exact = (await writer.call("raw_insert_exact_json", metadata_json=metadata))["id"]
        for side in pair.sides.values():
            assert await side.call("get", id=full["id"]) == full
            numbers = await side.call("raw_job_exact_json", id=exact)
            await side.call("update", id=exact, output="preserved")
            assert numbers == await writer.call("raw_job_exact_json", id=exact)
            assert numbers["big_integer"] == "123456789012345678901234567890"
            assert numbers["decimal"] == "0.12345678901234567890123456789"


async def test_adapters_play_large_ids(pair: Pair) -> None:
    """unsafe_int64_job_ids_rpc_list_cursors; ids above 2^53 are inserted, read, listed and cancelled exactly."""
    sides = list(pair.sides.values())
    for writer, reader, id in ((*sides, 2**53 + 1), (*reversed(sides), 2**53 + 11)):
        for one in (id, id + 1):
            assert (await writer.call("raw_insert_exact_json", id=one))["id"] == one
        pages = [await side.call("list", ids=[id, id + 1], limit=1) for side in (writer, reader)]
        assert pages[0] == pages[1]
        assert await ids_of(reader, ids=[id, id + 1], limit=1, after=pages[0]["cursor"]) == [id + 1]
        assert (await reader.call("cancel", id=id))["state"] == "cancelled"


async def notifications(pair: Pair, side: Side) -> dict[str, list[str]]:
    """Return what each operation of an adapter sends, by operation, with the ids of jobs replaced."""
    sent: dict[str, list[str]] = {}
    async with pair.payloads("river_control") as control, pair.payloads("river_insert") as inserts:
        await side.call("reset")
        job = await side.insert(message="m", opts={"queue": "notification_bytes"})
        sent["insert"] = await inserts()
        await side.call("cancel", id=job["id"])
        sent["cancel"] = [one.replace(str(job["id"]), "0") for one in await control()]
        await side.call("start", client_id="notification-bytes", max_workers=1)
        await side.until_leader("notification-bytes")
        for method, params in (
            ("queue_update", {"metadata": {"alpha": 1, "zeta": "text"}}),
            ("queue_pause", {}),
            ("queue_resume", {}),
        ):
            before = len(await control())
            await side.call(method, name="default", **params)
            sent[method] = (await control())[before:]
        async with pair.payloads("river_leadership") as leadership:
            await side.call("request_resign")
            sent["request_resign"] = (await leadership())[:1]
        await side.call("stop")
    return sent


async def test_adapters_play_notifications(pair: Pair) -> None:
    """notification_payload_bytes; each operation sends the same bytes in both languages."""
    go, python = [await notifications(pair, pair.sides[name]) for name in LANGUAGES]

    assert python == go
    assert all(go.values())


# Rows of jobs.


@pytest.mark.parametrize(("writer", "reader"), BOTH_WAYS)
async def test_adapters_play_job_commands(pair: Pair, writer: Language, reader: Language) -> None:
    """differential_job_crud; each adapter reads what the other has inserted, updated, cancelled, retried and deleted."""
    writes, reads = pair.sides[writer], pair.sides[reader]
    job = await writes.insert(
        message="m", opts={"metadata": {"writer": writer}, "priority": 3, "tags": ["a_tag"]}
    )
    assert await reads.call("get", id=job["id"]) == job
    lists = [await side.call("list", ids=[job["id"]], tags_all=["a_tag"]) for side in (writes, reads)]
    assert lists[0] == lists[1]

    updated = await reads.call("update", id=job["id"], output={"by": reader})
    assert await writes.call("get", id=job["id"]) == updated
    cancelled = await writes.call("cancel", id=job["id"])
    assert await reads.call("get", id=job["id"]) == cancelled
    retried = await reads.call("retry", id=job["id"])
    assert await writes.call("delete", id=job["id"]) == retried

    assert await reads.code("get", id=job["id"]) == "not_found"


@pytest.mark.parametrize(("writer", "reader"), BOTH_WAYS)
async def test_adapters_play_bulk_deletes(pair: Pair, writer: Language, reader: Language) -> None:
    """bulk_delete_safety; the other adapter deletes the ids that are named, and neither deletes all without a word."""
    writes, reads = pair.sides[writer], pair.sides[reader]
    ids = [(await writes.insert(message="m"))["id"] for _ in range(3)]

    deleted = await reads.call("delete_many", ids=ids[:2])

    assert sorted(job["id"] for job in deleted["jobs"]) == ids[:2]
    for side in (writes, reads):
        assert await side.code("delete_many") == "rejected"
        assert await ids_of(side) == ids[2:]


async def test_adapters_play_lists(pair: Pair) -> None:
    """
    differential_job_list_filters_and_cursors, job_list_cursor_interchange.

    Pages and cursors of each order are equal, and each adapter continues the other's list.
    """
    go, python = (pair.sides[name] for name in LANGUAGES)
    for number in (1, 2, 3, 4):
        opts = {
            "metadata": {"page": "x"},
            "scheduled_at": f"2099-01-01T00:00:0{number}.{number}2Z",
            "tags": ["page_jobs"],
        }
        job = await (go, python)[number % 2].insert(message="m", opts=opts)
        if number > 2:
            await (python, go)[number % 2].call("cancel", id=job["id"])
    await go.insert(message="excluded")
    filters = {
        "metadata": {"page": "x"},
        "priorities": [1, 2],
        "tags_all": ["page_jobs"],
        "tags_any": ["page_jobs"],
    }
    for order_by, states in LISTS:
        for direction in ("asc", "desc"):
            params = {**filters, "direction": direction, "limit": 1, "order_by": order_by, "states": states}
            after: dict[str, Any] = {}
            while True:
                pages = [await side.call("list", **params, **after) for side in (go, python)]
                assert pages[0] == pages[1], (params, after)
                if not pages[0]["jobs"]:
                    break
                after = {"after": pages[0]["cursor"]}


@pytest.mark.parametrize(("actor", "observer"), BOTH_WAYS)
async def test_adapters_play_batches(pair: Pair, actor: Language, observer: Language) -> None:
    """typed_batch_insertion; results are in order with the duplicate of a job, and one bad job stops the whole batch."""
    acts, observes = pair.sides[actor], pair.sides[observer]
    unique = {"message": "u", "opts": {"unique": {"by_args": True}}}
    existing = await observes.insert(**unique)

    jobs = [
        {"message": "a", "opts": {"metadata": {"n": 0}}},
        unique,
        {"message": "p", "opts": {"pending": True}},
    ]
    results = (await acts.call("insert_many", jobs=jobs))["results"]

    assert [one["unique_skipped_as_duplicate"] for one in results] == [False, True, False]
    assert results[1]["job"] == existing
    for one in results:
        assert await observes.call("get", id=one["job"]["id"]) == one["job"]
    assert await acts.code("insert_many", jobs=[]) == "rejected"
    lost = {"tags": ["lost"]}
    for bad in (
        [{"message": "a", "opts": lost}, {"message": "b", "opts": {"priority": 99}}],
        [{"message": "r", "opts": {**lost, "unique": {"by_args": True}}}] * 2,
    ):
        assert await acts.code("insert_many", jobs=bad)
    assert await ids_of(observes, tags_all=["lost"]) == []
    assert await acts.code("insert", opts={"unique": {"exclude_kind": True}}) == "rejected"
    large = [{"message": str(number), "opts": {"metadata": {"n": number}}} for number in range(6_000)]
    numbers = [one["job"]["metadata"]["n"] for one in (await acts.call("insert_many", jobs=large))["results"]]
    assert numbers == list(range(6_000))


# Transactions.


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize(("actor", "observer"), BOTH_WAYS)
async def test_adapters_play_transactions(
    pair: Pair, actor: Language, observer: Language, commit: bool
) -> None:
    """
    transaction_commit_visibility, transaction_rollback_visibility, transactional_batch_insertion.

    The other adapter sees the jobs of a transaction after its commit, and never without one.
    """
    acts, observes = pair.sides[actor], pair.sides[observer]
    await acts.call("tx_begin", handle="h")
    assert await acts.code("tx_insert_many", handle="h", jobs=[]) == "rejected"
    one = await acts.call("tx_insert", handle="h", job={"message": "m"})
    many = await acts.call("tx_insert_many", handle="h", jobs=[{"message": "a"}, {"message": "b"}])
    ids = [one["id"], *(result["job"]["id"] for result in many["results"])]

    assert await acts.call("tx_get", handle="h", id=one["id"]) == one
    assert await observes.code("get", id=one["id"]) == "not_found"
    assert await ids_of(observes) == []
    await acts.call("tx_commit" if commit else "tx_rollback", handle="h")

    assert await ids_of(observes) == (ids if commit else [])
    assert await acts.code("tx_commit", handle="h") == "not_found"


async def test_adapters_play_failed_transactions(pair: Pair) -> None:
    """transaction_abort_rollback_visibility; nobody sees the job of a transaction that failed, also after a commit."""
    for side in pair.sides.values():
        await side.call("tx_begin", handle="h")
        await side.call("tx_insert", handle="h", job={"message": "m"})
        assert await side.code("tx_fail", handle="h") == "database_error"
        await side.code("tx_commit", handle="h")
        for observer in pair.sides.values():
            assert await ids_of(observer) == []


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize(("actor", "observer"), BOTH_WAYS)
async def test_adapters_play_commands_in_transactions(
    pair: Pair, actor: Language, observer: Language, commit: bool
) -> None:
    """
    transactional_crud_commit_rollback, transactional_cross_language_cancel, transactional_queue_operations.

    Commands to the other adapter's jobs and queues take effect at the commit, and not before.
    """
    acts, observes = pair.sides[actor], pair.sides[observer]
    await observes.call("start", client_id="c", max_workers=1, queue="idle")
    await observes.call("stop")
    cancelled, deleted, bulk, changed = [await observes.insert(message="m") for _ in range(4)]
    before = (await observes.call("list"), await observes.call("queue_list"))
    tx = {"handle": "h"}
    await acts.call("tx_begin", **tx)
    await acts.call("tx_cancel", **tx, id=cancelled["id"])
    await acts.call("tx_delete", **tx, id=deleted["id"])
    await acts.call("tx_delete_many", **tx, ids=[bulk["id"]])
    await acts.call("tx_cancel", **tx, id=changed["id"])
    await acts.call("tx_retry", **tx, id=changed["id"])
    await acts.call("tx_update", **tx, id=changed["id"], output={"by": actor})
    await acts.call("tx_queue_update", **tx, name="idle", metadata={"by": actor})
    await acts.call("tx_queue_pause", **tx, name="idle")
    within = (await acts.call("tx_list", **tx), await acts.call("tx_queue_list", **tx))
    assert (await acts.call("tx_queue_get", **tx, name="idle")) == within[1]["queues"][0]

    assert (await observes.call("list"), await observes.call("queue_list")) == before
    await acts.call("tx_commit" if commit else "tx_rollback", **tx)

    after = (await observes.call("list"), await observes.call("queue_list"))
    assert after == (within if commit else before)
    if commit:
        states = {job["id"]: job["state"] for job in after[0]["jobs"]}
        assert states == {cancelled["id"]: "cancelled", changed["id"]: "available"}


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize(("controller", "worker"), BOTH_WAYS)
async def test_adapters_play_notifications_of_transactions(
    pair: Pair, controller: Language, worker: Language, commit: bool
) -> None:
    """transactional_insert_notification_commit_only; the commit wakes a worker that polls once a minute."""
    controls, works = pair.sides[controller], pair.sides[worker]
    await works.call("start", client_id="c", fetch_poll_interval_ms=60_000, max_workers=2)
    async with pair.payloads("river_insert") as inserts:
        await controls.call("tx_begin", handle="h")
        jobs = [{"message": text} for text in ("a", "b")]
        inserted = await controls.call("tx_insert_many", handle="h", jobs=jobs)
        await controls.call("tx_commit" if commit else "tx_rollback", handle="h")

        assert bool(await inserts()) is commit
    for one in inserted["results"] if commit else ():
        assert (await works.wait(one["job"]))["state"] == "completed"


# Queues and schemas.


@pytest.mark.parametrize(("writer", "reader"), BOTH_WAYS)
async def test_adapters_play_queue_commands(pair: Pair, writer: Language, reader: Language) -> None:
    """differential_queue_crud; each adapter reads the queue that the other worked, and its metadata."""
    writes, reads = pair.sides[writer], pair.sides[reader]
    await writes.call("start", client_id="c", max_workers=1)
    await writes.call("stop")
    queue = await writes.call("queue_get", name="default")
    assert await reads.call("queue_get", name="default") == queue

    async with pair.payloads("river_control") as control:
        updated = await reads.call("queue_update", name="default", metadata={"by": reader})
        assert len(await control()) == 1

    assert updated["metadata"] == {"by": reader}
    lists = [await side.call("queue_list") for side in (writes, reads)]
    assert lists == [{"queues": [updated]}] * 2


async def test_adapters_play_names_of_queues(pair: Pair) -> None:
    """queue_names_and_unknown_queue_control; a queue without a row is not found, whatever its name."""
    for side in pair.sides.values():
        for name in ("missing_queue", "missing queue", "q" * 129):
            assert await side.code("queue_pause", name=name) == "not_found"
            assert await side.code("queue_resume", name=name) == "not_found"
            assert await side.code("queue_update", name=name, metadata={}) == "not_found"
        await side.call("queue_pause", name="*")
        await side.call("queue_resume", name="*")
        assert (await side.insert(opts={"queue": "tenant|emails"}))["queue"] == "tenant|emails"


@contextlib.asynccontextmanager
async def migrated_and_worked(
    pair: Pair, migrator: Language, worker: Language, schema: str
) -> AsyncIterator[None]:
    """Let one adapter migrate a schema, and the other insert and work a job in it; drop the schema at the end."""
    migrates, works, named = pair.sides[migrator], pair.sides[worker], {"schema": schema}
    try:
        done = await migrates.call("migrate", **named)
        again = await works.call("migrate", **named)
        assert (done["valid"], again["valid"]) == (True, True)
        assert (again["applied"], again["existing"]) == ([], done["applied"])
        job = await works.insert(message="m", **named)
        assert await migrates.call("get", id=job["id"], **named) == job
        worked = await works.call("work", id=job["id"], client_id="c", **named)
        assert (worked["state"], worked["attempted_by"]) == ("completed", ["c"])
        assert await migrates.call("get", id=job["id"], **named) == worked
        yield
    finally:
        await pair.fetch(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
async def test_adapters_play_schemas(pair: Pair, migrator: Language, worker: Language) -> None:
    """
    custom_schema_candidate_migrate_reference_work, custom_schema_reference_migrate_candidate_work.

    One adapter migrates a schema, in which the other works; its name may have 46 characters, and no more.
    """
    for name in (f"custom_{pair.schema}", f"{migrator}_{pair.schema}_".ljust(46, "s")):
        async with migrated_and_worked(pair, migrator, worker, name):
            assert await pair.sides[worker].code("insert", message="m", schema="s" * 47) == "rejected"


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
async def test_adapters_play_migrators(pair: Pair, migrator: Language, worker: Language) -> None:
    """candidate_migrator_reference_runtime, reference_migrator_candidate_runtime; one works where the other migrated."""
    async with migrated_and_worked(pair, migrator, worker, f"migrated_{pair.schema}"):
        pass


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
async def test_adapters_play_mixed_case_schemas(pair: Pair, migrator: Language, worker: Language) -> None:
    """migration_mixed_case_schema; one adapter works in the other's schema, whose name needs quotes."""
    async with migrated_and_worked(pair, migrator, worker, f"Mixed_{pair.schema}"):
        pass


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_adapters_play_old_migrations(pair: Pair, first: Language, second: Language) -> None:
    """historical_migration_down_up; from each version on, the other adapter migrates up, down and up again."""
    begins, ends, name = pair.sides[first], pair.sides[second], f"history_{pair.schema}"
    await pair.fetch(f'CREATE SCHEMA "{name}"')
    try:
        for version in range(5, 9):
            up = await begins.call("migrate", schema=name, target_version=version)
            assert (up["existing"], up["valid"]) == (list(range(1, version + 1)), version == 8)
            for adapter, direction, target, existing in (
                (ends, "up", 0, 8),
                (begins, "down", version, version),
                (ends, "up", 0, 8),
                (ends, "down", -1, 0),
            ):
                done = await adapter.call("migrate", direction=direction, schema=name, target_version=target)
                assert done["existing"] == list(range(1, existing + 1)), (version, direction)
    finally:
        await pair.fetch(f'DROP SCHEMA "{name}" CASCADE')
