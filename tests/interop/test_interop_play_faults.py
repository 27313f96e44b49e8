"""Scenarios of River's conformance suite with faults and maintenance, played by each adapter beside the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance_pair import SECONDS, Pair, Side
from interop_harness import BOTH_WAYS, LANGUAGES, Language

from proxy import proxied

ARGS = '{"behavior": "", "duration_ms": 0, "message": "maintenance"}'
RESCUE_MS = 1_500


async def started(side: Side, **settings: Any) -> Side:
    """Start the client of an adapter, whose id is the adapter's name."""
    await side.call("start", **{"client_id": side.name, "max_workers": 1, **settings})
    return side


# Faults.


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_adapters_play_lost_notifications(pair: Pair, inserter: Language, worker: Language) -> None:
    """lost_notification_poll_recovery; a poll finds a job that no notification announced."""
    works = await started(pair.sides[worker], fetch_poll_interval_ms=250)
    job = await pair.sides[inserter].call("raw_insert_no_notify", message="m")

    done = await works.wait(job)

    assert (done["state"], done["attempted_by"]) == ("completed", [worker])


async def until_woken(controls: Side, works: Side, tag: str) -> None:
    """Insert jobs until one wakes the worker: a listener that has just returned may miss the first notification."""
    async with asyncio.timeout(SECONDS):
        while not (await works.call("list", states=["completed"], tags_all=[tag]))["jobs"]:
            await controls.insert(opts={"tags": [tag]})


@pytest.mark.parametrize(("controller", "worker"), BOTH_WAYS)
async def test_adapters_play_cut_connections(pair: Pair, controller: Language, worker: Language) -> None:
    """listener_backend_disconnect_reconnect; inserts wake a client again after its listener and all else was cut."""
    controls, works = pair.sides[controller], await started(pair.sides[worker], fetch_poll_interval_ms=60_000)
    name = {"application_name": works.application_name}
    for cutter, method, params in (
        (works, "fault_disconnect_listeners", {}),
        (controls, "fault_disconnect_application", name),
    ):
        await works.until("listener_count", lambda result: result["count"])
        await until_woken(controls, works, method)
        assert (await cutter.call(method, **params))["count"] >= 1
    await works.until("listener_count", lambda result: result["count"])
    await until_woken(controls, works, "after_both")


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_failed_completions(pair: Pair, worker: Language, inserter: Language) -> None:
    """completion_transient_failure_retry; a completion that fails once is written again, in the same attempt."""
    await pair.fetch("CREATE SEQUENCE fault")
    await pair.fetch(
        "CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.state = 'running' AND NEW.state = 'completed' AND nextval('fault') = 1 THEN "
        "RAISE EXCEPTION 'injected' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$"
    )
    await pair.fetch(
        "CREATE TRIGGER fail_once BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION fail_once()"
    )
    try:
        works = await started(pair.sides[worker])
        done = await works.until_state(await pair.sides[inserter].insert(), "completed")
        assert (done["attempt"], done["errors"]) == (1, [])
        assert (await pair.fetch("SELECT last_value FROM fault"))[0]["last_value"] >= 2
        await works.call("stop")
    finally:
        await pair.fetch("DROP TRIGGER fail_once ON river_job")
        await pair.fetch("DROP FUNCTION fail_once")
        await pair.fetch("DROP SEQUENCE fault")


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_locked_rows(pair: Pair, worker: Language, inserter: Language) -> None:
    """completion_row_lock_wait; a completion waits for a locked row and is then written."""
    works = await started(pair.sides[worker])
    await works.call("barrier_create", name="b")
    job = await works.wait(await pair.sides[inserter].insert("barrier_wait", message="b"), "running")
    async with pair.connection.transaction():
        await pair.fetch("SELECT FROM river_job WHERE id = $1 FOR UPDATE", job["id"])
        await works.call("barrier_release", name="b")
        await pair.until_blocked(works)

    done = await works.wait(job)

    assert (done["state"], done["attempt"]) == ("completed", 1)


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_rows_that_cannot_be_decoded(
    pair: Pair, worker: Language, inserter: Language
) -> None:
    """claimed_row_decode_isolation; unusual errors and metadata of a row stop no other row of its fetch."""
    inserts, works = pair.sides[inserter], pair.sides[worker]
    usual, sparse, odd, broken = [await inserts.insert(message="m") for _ in range(4)]
    await pair.fetch(
        'UPDATE river_job SET errors = ARRAY[\'{"error": "sparse", "extra": true}\'::jsonb] WHERE id = $1',
        sparse["id"],
    )
    await pair.fetch("UPDATE river_job SET metadata = '[1]' WHERE id = $1", broken["id"])
    if worker == "python":  # River v0.51.2 cannot read such errors
        await pair.fetch("UPDATE river_job SET errors = ARRAY['42'::jsonb] WHERE id = $1", odd["id"])
    await started(works, max_workers=4, retry_delay_ms=3_600_000)

    for job in (usual, sparse, odd):
        await works.until_state(job, "completed")
    ended = "SELECT state::text, attempt, metadata::text FROM river_job WHERE id = $1"
    [row] = await pair.until_fetched(
        lambda rows: rows[0]["state"] not in ("available", "running"), ended, broken["id"]
    )
    assert (row["attempt"], row["metadata"]) == (1, "[1]")


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_lost_databases(pair: Pair, worker: Language, inserter: Language) -> None:
    """database_unavailable_reconnect; a client that loses the database completes its job and a new one afterwards."""
    inserts = pair.sides[inserter]
    async with proxied(pair.url) as proxy:
        works = await started(await pair.another(worker, proxy.url), max_workers=4)
        await works.call("barrier_create", name="b")
        held = await inserts.wait(await inserts.insert("barrier_wait", message="b"), "running")

        proxy.cut()
        await works.call("barrier_release", name="b")
        during = await inserts.insert()
        proxy.restore()

        for job in (held, during):
            done = await inserts.until_state(job, "completed")
            assert (done["attempt"], done["errors"]) == (1, [])
        await works.call("stop")


@pytest.mark.parametrize(("killed", "rescuer"), [*BOTH_WAYS, ("python", "python")])
async def test_adapters_play_killed_processes(pair: Pair, killed: Language, rescuer: Language) -> None:
    """
    candidate_process_kill_reference_rescue, reference_process_kill_candidate_rescue, process_kill_restart_and_rescue.

    After a kill, another process leads, rescues the job and completes it in its second attempt.
    """
    rescues, dies = await pair.another(rescuer), await pair.another(killed)
    for side in (rescues, dies):
        await side.call("barrier_create", name="b")
    # The job waits for ever where its process is killed, and not at all where it is rescued.
    await rescues.call("barrier_release", name="b")
    await started(dies, client_id="killed")
    job = await rescues.wait(await rescues.insert("barrier_wait", message="b"), "running")
    await dies.kill()
    await rescues.call("fault_expire_leader")

    await started(rescues, client_id="rescuer", job_timeout_ms=RESCUE_MS, rescue_after_ms=RESCUE_MS)

    done = await rescues.until_state(job, "completed", "cancelled", "discarded")
    assert (done["state"], done["attempt"]) == ("completed", 2)
    assert done["attempted_by"] == ["killed", "rescuer"]
    assert (len(done["errors"]), done["metadata"]["river:rescue_count"]) == (1, 1)


async def test_adapters_play_the_death_of_a_leader(pair: Pair) -> None:
    """
    mixed_leader_death_failover_both_directions.

    River follows a killed Millhand leader, and inserts its periodic job once. The other direction is not played:
    Millhand inserts its periodic jobs beside a leader of River, in a role of its own.
    """
    dies, follows = await pair.another("python"), pair.sides["go"]
    await started(dies, client_id="dying", periodic_run_on_start=True)
    await follows.until_leader("dying")
    filters = {"metadata": {"river:periodic_job_id": "conformance-periodic"}}
    await follows.until("list", lambda page: len(page["jobs"]) == 1, **filters)
    await started(follows, periodic_run_on_start=True)
    await follows.wait(await follows.insert())
    assert (await follows.call("runtime_stats"))["periodic_starts"] == 0

    await dies.kill()
    await follows.call("fault_expire_leader")

    await follows.until_leader("go")
    await follows.until("list", lambda page: len(page["jobs"]) == 2, **filters)
    await follows.wait(await follows.insert())
    assert len((await follows.call("list", **filters))["jobs"]) == 2


# Maintenance by a leader.


async def insert_row(pair: Pair, state: str, age: str, kind: str = "conformance_echo") -> int:
    """Insert a row whose attempt began, or that ended, `age` ago."""
    [row] = await pair.fetch(
        "INSERT INTO river_job (args, attempt, attempted_at, attempted_by, finalized_at, kind, max_attempts, state) "
        f"VALUES ('{ARGS}', 1, now() - $1::text::interval, ARRAY['dead'], "
        "CASE WHEN $2::text = 'running' THEN NULL ELSE now() - $1::text::interval END, $3, 1, $2::text::river_job_state) "
        "RETURNING id",
        age,
        state,
        kind,
    )
    id: int = row["id"]
    return id


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_retention(pair: Pair, leader: Language) -> None:
    """maintenance_job_cleaner_retention; expired rows are deleted by state, and -1 keeps a state for ever."""
    gone = [await insert_row(pair, state, "2 hours") for state in ("cancelled", "discarded")]
    kept = [
        await insert_row(pair, *row)
        for row in (("completed", "2 hours"), ("cancelled", "1 minute"), ("running", "1 second"))
    ]
    leads = await started(
        pair.sides[leader],
        cancelled_job_retention_ms=3_600_000,
        completed_job_retention_ms=-1,
        discarded_job_retention_ms=3_600_000,
        queue="idle",
    )

    await leads.until("list", lambda page: len(page["jobs"]) == len(kept), ids=[*gone, *kept])

    assert [job["id"] for job in (await leads.call("list"))["jobs"]] == kept


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_old_queues(pair: Pair, leader: Language) -> None:
    """maintenance_queue_cleaner_keeps_active_queues; only a queue without a client for a day is deleted."""
    for name, age in (("stale", "25 hours"), ("recent", "1 hour")):
        await pair.fetch(
            "INSERT INTO river_queue (name, created_at, metadata, updated_at) "
            "VALUES ($1, now(), '{}', now() - $2::text::interval)",
            name,
            age,
        )
    leads = await started(pair.sides[leader], queue="active")

    page = await leads.until(
        "queue_list", lambda page: {queue["name"] for queue in page["queues"]} == {"active", "recent"}
    )

    assert len(page["queues"]) == 2


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_rescues_of_locked_rows(pair: Pair, leader: Language) -> None:
    """maintenance_rescuer_stale_selection; a row that another client changes before its rescue stays as it is."""
    kind = "maintenance_unregistered_kind"
    completed, reclaimed, eligible = [await insert_row(pair, "running", "2 hours", kind) for _ in range(3)]
    leads = pair.sides[leader]
    async with pair.connection.transaction():
        await pair.fetch("SELECT FROM river_job WHERE id = ANY ($1) FOR UPDATE", [completed, reclaimed])
        await started(leads, queue="idle", rescue_after_ms=60_000)
        # River's rescuer waits for the locked rows. Millhand's may rescue the third row first.
        await pair.until_fetched(
            len,
            "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock' "
            "UNION ALL SELECT 1 FROM river_job WHERE id = $2 AND state = 'discarded'",
            leads.application_name,
            eligible,
        )
        await pair.fetch(
            "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1", completed
        )
        await pair.fetch("UPDATE river_job SET attempt = 2, attempted_at = now() WHERE id = $1", reclaimed)

    await leads.until_state({"id": eligible}, "discarded")

    rows = [await leads.call("get", id=id) for id in (completed, reclaimed)]
    assert [(row["state"], row["attempt"], row["errors"]) for row in rows] == [
        ("completed", 1, []),
        ("running", 2, []),
    ]


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_renewals_of_a_term(pair: Pair, leader: Language) -> None:
    """leadership_renewal_under_slow_maintenance; a leader renews its term twice while its cleaner waits for a row."""
    expired = await insert_row(pair, "completed", "48 hours")
    leads = pair.sides[leader]
    terms = []
    async with pair.connection.transaction():
        await pair.fetch("SELECT FROM river_job WHERE id = $1 FOR UPDATE", expired)
        await started(leads, queue="idle")
        await leads.until_leader(leader)
        await pair.until_blocked(leads)
        for _ in range(3):
            terms += await pair.until_fetched(
                lambda rows, known=tuple(terms): rows[0] not in known,
                "SELECT elected_at, expires_at FROM river_leader",
            )
            await pair.until_blocked(leads)

    assert len({term["elected_at"] for term in terms}) == 1


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_full_batches_of_rescues(pair: Pair, leader: Language) -> None:
    """maintenance_rescuer_full_batch_of_unexpired_jobs; ten thousand attempts without a timeout hide no expired one."""
    await pair.fetch(
        "INSERT INTO river_job (args, attempt, attempted_at, attempted_by, kind, max_attempts, state) "
        f"SELECT '{ARGS}', 1, now() - interval '2 hours', ARRAY['dead'], 'conformance_echo', 25, 'running' "
        "FROM generate_series(1, 10000)"
    )
    eligible = await insert_row(pair, "running", "2 hours", "maintenance_unregistered_kind")
    leads = await started(pair.sides[leader], job_timeout_disabled=True, queue="idle", rescue_after_ms=60_000)

    await leads.until_state({"id": eligible}, "discarded")

    untouched = (
        "SELECT FROM river_job WHERE kind = 'conformance_echo' AND state = 'running' AND errors IS NULL"
    )
    assert len(await pair.fetch(untouched)) == 10_000


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_leftovers_of_indexes(pair: Pair, leader: Language) -> None:
    """maintenance_reindexer_skips_artifacts; an index with a leftover and a missing one are skipped."""
    names = ("maint_artifact_idx", "maint_artifact_idx_ccnew1", "maint_rebuilt_idx")
    try:
        for name in names:
            await pair.fetch(f"CREATE INDEX {name} ON river_job (kind)")
        files = "SELECT relfilenode FROM pg_class WHERE oid = ANY ($1::text[]::regclass[]) ORDER BY relname"
        before = await pair.fetch(files, names)
        leads = await started(
            pair.sides[leader],
            queue="idle",
            reindexer_index_names=["maint_missing_idx", "maint_artifact_idx", "maint_rebuilt_idx"],
            reindexer_interval_ms=200,
        )
        after = await pair.until_fetched(lambda rows: rows[2] != before[2], files, names)
        assert after[:2] == before[:2]
        await leads.call("stop")
    finally:
        for name in names:
            await pair.fetch(f"DROP INDEX IF EXISTS {name}")


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_adapters_play_another_term_of_the_same_client(pair: Pair, leader: Language) -> None:
    """leadership_same_client_id_term_replacement; a leader does not renew the term of another process with its id."""
    leads = await started(pair.sides[leader], periodic_run_on_start=True, queue="idle")
    filters = {"metadata": {"river:periodic_job_id": "conformance-periodic"}}
    first = await leads.until_leader(leader)
    await leads.until("list", lambda page: len(page["jobs"]) == 1, **filters)
    await pair.fetch(
        "UPDATE river_leader SET elected_at = elected_at + interval '1 second', expires_at = now() + interval '3 seconds'"
    )
    replaced = await leads.call("leader")

    known = (first["elected_at"], replaced["elected_at"])
    fresh = await leads.until("leader", lambda term: term["elected_at"] not in (None, *known))

    assert fresh["leader_id"] == leader
    if leader == "go":  # Millhand inserts its periodic jobs in a role of its own, whose term did not end
        await leads.until("list", lambda page: len(page["jobs"]) == 2, **filters)
