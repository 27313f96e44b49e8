"""Limits in any order of events, with a state machine that hypothesis drives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from limited_queue import CLIENT, LimitedQueue, tenants
from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import JobNotWaiting
from millhand.core.job import JobState
from millhand.core.limit import Limit, Rate
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel, job_delete, job_get_available, job_get_by_id, job_retry
from millhand.limits.job_store import (
    limit_correct_totals,
    limit_partition_delete_idle,
    limit_partition_get_differing,
    limited_job_admit_available,
    limited_job_adopt_pending,
    limited_job_begin_to_wait,
    limited_job_free,
    limited_job_get_available,
    limited_job_park,
    limited_job_release_ended,
    limited_job_wait_again,
)
from millhand.limits.store import (
    limit_partition_hold,
    limit_partition_list_halted,
    limit_partition_release,
    limit_partition_resume,
    limit_partition_set,
    limit_remove,
    limit_set,
)

QUEUE = "limited"
TENANTS = ("a", "b", "c")
ENDED = ("cancelled", "completed", "discarded")
COUNTS = st.one_of(st.none(), st.integers(1, 4))
SECONDS = st.sampled_from([0, 1, 5, 60])
PLACES = st.integers(0, 20)

# A waiting job, its partition, and why it cannot have a slot now.
WAITING = """
SELECT
    limited.job_id,
    partition.partition_key,
    coalesce(partition.running >= coalesce(partition.at_once, limits.at_once), false) AS is_full,
    coalesce(limits.num_running >= limits.total, false) AS is_total_full,
    coalesce(partition.opens_at > $2, false) AS opens_later
FROM millhand_limited_job AS limited
INNER JOIN river_job AS job ON job.id = limited.job_id AND job.state = 'pending'
INNER JOIN millhand_limit AS limits ON limits.queue = limited.queue
LEFT JOIN millhand_limit_partition AS partition
    ON partition.queue = limited.queue AND partition.partition_key = limited.partition_key
WHERE limited.queue = $1 AND limited.admitted_at IS NULL AND NOT limited.is_later
"""


@dataclass(frozen=True)
class Ground:
    """Where machines run: the event loop belongs to the test, and hypothesis runs in a thread beside it."""

    executor: Executor
    loop: asyncio.AbstractEventLoop

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class RolledBackError(Exception):
    pass


class Machine(RuleBasedStateMachine):
    """A queue, its clients, its leader and other programs, one statement after the other, at an instant of its own."""

    ground: Ground

    @initialize(kind=st.sampled_from(["exclusive", "exclusive", "in order", "halt", "shared"]))
    def begin(self, kind: str) -> None:
        self.kind = kind
        self.bounds: dict[str, int | None] = {}  # by partition: its limit when a job was last admitted
        self.failed_finally: dict[
            str, int
        ] = {}  # by partition: the job that failed finally, until a person opens the partition
        self.ground.do(self._begin())

    async def _begin(self) -> None:
        self.stack = AsyncExitStack()
        self.tx = await self.stack.enter_async_context(self.ground.executor.begin())
        [row] = await self.tx.fetch("SELECT now() AS now")
        self.database_now = row["now"]
        self.queue = LimitedQueue(self.tx, QUEUE, now=row["now"])
        await self._set(Limit(at_once=2, by_args=["tenant"]))

    async def _set(self, limit: Limit) -> None:
        if self.kind in ("in order", "halt"):
            limit = Limit(in_order=True, halt=self.kind == "halt", total=limit.total, by_args=limit.by_args)
        elif self.kind == "shared":
            limit = Limit(at_once=limit.at_once or 1, total=limit.total, by_args=limit.by_args, shared=True)
        self.limit = limit
        await self.tx.run(limit_set(QUEUE, limit))

    # What clients insert.

    @rule(
        names=st.lists(st.sampled_from(TENANTS), min_size=1, max_size=5),
        is_aware=st.booleans(),
        seconds=SECONDS,
        priority=st.integers(1, 3),
    )
    def insert(self, names: list[str], is_aware: bool, seconds: int, priority: int) -> None:
        """Now or for later, by a client that knows the limit or one that does not."""
        insert = self.queue.insert if is_aware else self.queue.insert_unaware
        given = {"priority": priority, "state": JobState.SCHEDULED if seconds else JobState.AVAILABLE}
        self.ground.do(insert(*names, scheduled_at=self.queue.now + timedelta(seconds=seconds), **given))

    # What the clients that work the queue do.

    @rule()
    def collect(self) -> None:
        self.ground.do(self.queue.collect())

    @rule(limit=st.integers(1, 8), here=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 3)))
    def admit(self, limit: int, here: dict[str, int]) -> None:
        """By a client some of whose workers are busy."""
        self.ground.do(self._admit(limit, {f'["{name}"]': num for name, num in here.items()}))

    async def _admit(self, limit: int = 100, here: dict[str, int] | None = None) -> bool:
        admission = await self.queue.admit(limit, num_running_here=here or {})
        started = Counter(f'["{name}"]' for name in tenants(admission.jobs))
        assert started.total() <= limit
        if self.limit.at_once_per_client is not None:
            assert started == Counter(admission.partition_keys.values())
            assert all(
                (here or {}).get(key, 0) + num <= self.limit.at_once_per_client
                for key, num in started.items()
            )
        await self._admitted(started)
        return bool(admission.jobs) or admission.has_more or admission.is_contended

    async def _admitted(self, started: Counter[str]) -> None:
        partitions = await self.queue.partitions()
        for key in started:
            own = partitions[key]["at_once"]
            self.bounds[key] = self.limit.at_once if own is None else own
            assert key not in self.failed_finally, "a job started behind one that failed finally"
            assert partitions[key]["held_until"] is None or partitions[key]["held_until"] <= self.queue.now
        if started and self.limit.total is not None:
            assert sum(row["running"] for row in partitions.values()) <= self.limit.total

    @rule(places=st.lists(PLACES, min_size=1, max_size=4))
    def complete(self, places: list[int]) -> None:
        self.ground.do(self._complete(places))

    async def _complete(self, places: Sequence[int]) -> None:
        await self.queue.complete(*await self._running(places))

    @rule(places=st.lists(PLACES, min_size=1, max_size=4), limit=st.integers(0, 8))
    def complete_and_admit(self, places: list[int], limit: int) -> None:
        """Jobs end, and the same statement starts others; under another limit than a number at once, it does nothing."""
        self.ground.do(self._complete_and_admit(places, limit))

    async def _complete_and_admit(self, places: Sequence[int], limit: int) -> None:
        jobs = await self._running(places)
        done = await self.queue.complete_and_admit(*jobs, limit=limit)
        started = Counter(f'["{name}"]' for name in tenants(done.admission.jobs))
        is_only_at_once = self.limit.at_once is not None and not (
            self.limit.at_once_per_client or self.limit.total or self.limit.rate or self.limit.in_order
        )
        assert set(done.completed_ids) == {job.id for job in jobs if is_only_at_once}
        assert started.total() <= (limit if is_only_at_once else 0)
        await self._admitted(started)

    @rule(places=st.lists(PLACES, min_size=1, max_size=3), seconds=SECONDS, last=st.booleans())
    def fail(self, places: list[int], seconds: int, last: bool) -> None:
        """A job fails, and is tried again or not."""
        self.ground.do(self._fail(places, seconds, last=last))

    async def _fail(self, places: list[int], seconds: int, *, last: bool) -> None:
        jobs = await self._running(places)
        if last:
            await self.queue.end(*jobs, state=JobState.DISCARDED, finalized_at=self.queue.now)
            self._fail_finally(jobs)
            return
        at = self.queue.now + timedelta(seconds=seconds)
        await self.queue.end(*jobs, state=JobState.RETRYABLE, scheduled_at=at, shared_ids=self._shared(jobs))

    @rule(place=PLACES, seconds=SECONDS, holds=st.booleans())
    def snooze(self, place: int, seconds: int, holds: bool) -> None:
        """With and without a hold of the partition, or given back without a pause."""
        self.ground.do(self._snooze(place, seconds, holds=holds))

    async def _snooze(self, place: int, seconds: int, *, holds: bool) -> None:
        jobs = await self._running([place])
        await self.queue.end(
            *jobs,
            state=JobState.SCHEDULED if seconds else JobState.AVAILABLE,
            scheduled_at=self.queue.now + timedelta(seconds=seconds),
            shared_ids=self._shared(jobs),
            holds_partition=holds,
        )

    def _fail_finally(self, jobs: Sequence[Any]) -> None:
        if self.limit.halt:
            self.failed_finally.update({f'["{job.args["tenant"]}"]': job.id for job in jobs})

    def _open(self, id: int) -> None:
        """A person has changed the job that failed finally."""
        self.failed_finally = {key: job_id for key, job_id in self.failed_finally.items() if job_id != id}

    def _shared(self, jobs: Sequence[Any]) -> list[Any]:
        return [job.id for job in jobs] if self.kind == "shared" else []

    async def _running(self, places: Sequence[int]) -> list[Any]:
        rows = await self.tx.fetch(
            "SELECT id FROM river_job WHERE state = 'running' AND attempted_by[cardinality(attempted_by)] = $1 "
            "ORDER BY id",
            [CLIENT],
        )
        ids = sorted({rows[place % len(rows)]["id"] for place in places}) if rows else []
        return [await self.tx.run(job_get_by_id(id)) for id in ids]

    # What others do to jobs.

    @rule(
        place=PLACES,
        to=st.sampled_from(
            ["retryable", "retryable", "available", "completed", "deleted", "cancelled", "discarded"]
        ),
    )
    def end_elsewhere(self, place: int, to: str) -> None:
        """A killed worker's job is rescued, or another program ends or deletes a running job."""
        self.ground.do(self._end_elsewhere(place, to))

    async def _end_elsewhere(self, place: int, to: str) -> None:
        for job in await self._running([place]):
            if to == "deleted":
                await self.tx.fetch("DELETE FROM river_job WHERE id = $1", [job.id])
                continue
            finalized = f"finalized_at = {'now()' if to in ENDED else 'NULL'}"
            await self.tx.fetch(
                f"UPDATE river_job SET state = '{to}', {finalized}, scheduled_at = $2 WHERE id = $1",
                [job.id, self.queue.now],
            )
            if to in ("cancelled", "discarded"):
                self._fail_finally([job])

    @rule(
        place=PLACES,
        change=st.sampled_from(["cancel", "delete", "retry", "retry", "snooze", "retry elsewhere"]),
    )
    def change(self, place: int, change: str) -> None:
        """A user cancels, deletes, retries or snoozes a job that does not run, or retries it in River UI."""
        self.ground.do(self._change(place, change))

    async def _change(self, place: int, change: str) -> None:
        rows = await self.tx.fetch("SELECT id FROM river_job WHERE state <> 'running' ORDER BY id")
        if not rows:
            return
        id = rows[place % len(rows)]["id"]
        if change.startswith("retry") or (change == "delete" and not await self._is_halted_by(id)):
            self._open(id)
        if change == "cancel":
            await self.tx.run(job_cancel(id, now=self.queue.now))
        elif change == "delete":
            await self.tx.run(job_delete(id))
        elif change == "retry":
            await JOB_CHANGES.retry(self.tx, id, now=self.queue.now)
        elif change == "snooze":
            with contextlib.suppress(JobNotWaiting):
                await JOB_CHANGES.snooze(self.tx, id, self.queue.now + timedelta(seconds=5))
        else:
            await self.tx.run(job_retry(id, now=self.queue.now))

    async def _is_halted_by(self, id: int) -> bool:
        return id in [one.halted_by for one in await self.tx.run(limit_partition_list_halted(QUEUE))]

    @precondition(lambda self: self.kind == "halt")
    @rule(place=PLACES)
    def resume(self, place: int) -> None:
        """A person skips a job that failed finally."""
        self.ground.do(self._resume(place))

    async def _resume(self, place: int) -> None:
        if halted := await self.tx.run(limit_partition_list_halted(QUEUE)):
            key = halted[place % len(halted)].key
            await self.tx.run(limit_partition_resume(QUEUE, json.loads(key)))
            self.failed_finally.pop(key, None)

    @precondition(lambda self: self.kind == "shared")
    @rule(limit=st.integers(1, 4), ends=st.booleans())
    def work_elsewhere(self, limit: int, ends: bool) -> None:
        """A Go worker fetches what is available, whatever that is, and ends it or keeps it."""
        self.ground.do(self._work_elsewhere(limit, ends=ends))

    async def _work_elsewhere(self, limit: int, *, ends: bool) -> None:
        client = "go" if ends else CLIENT
        jobs = await self.tx.run(
            job_get_available(queue=QUEUE, limit=limit, client_id=client, now=self.queue.now)
        )
        if ends:
            await self.tx.fetch(
                "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = ANY($1::bigint[])",
                [[job.id for job in jobs]],
            )

    @precondition(lambda self: self.kind == "shared")
    @rule(limit=st.integers(1, 4))
    def fetch_available(self, limit: int) -> None:
        self.ground.do(
            self.tx.run(
                limited_job_get_available(queue=QUEUE, limit=limit, client_id=CLIENT, now=self.queue.now)
            )
        )

    # Changes of the limit.

    @rule(at_once=COUNTS, per_client=COUNTS, total=COUNTS, rate=st.one_of(st.none(), st.integers(1, 3)))
    def set_limit(
        self, at_once: int | None, per_client: int | None, total: int | None, rate: int | None
    ) -> None:
        """At run time, to anything."""
        limit = Limit(
            at_once=at_once if at_once or per_client or total or rate else 1,
            at_once_per_client=per_client,
            total=total,
            rate=Rate(rate, per=timedelta(seconds=10), burst=rate) if rate else None,
            by_args=["tenant"],
        )
        self.ground.do(self._set(limit))

    @rule(name=st.sampled_from(TENANTS), at_once=COUNTS, weight=st.integers(1, 3))
    def set_partition(self, name: str, at_once: int | None, weight: int) -> None:
        at_once = at_once if self.kind not in ("in order", "halt") else None
        self.ground.do(self.tx.run(limit_partition_set(QUEUE, [name], at_once=at_once, weight=weight)))

    @rule(name=st.sampled_from(TENANTS), seconds=SECONDS)
    def hold(self, name: str, seconds: int) -> None:
        since = self.queue.now - self.database_now
        self.ground.do(self.tx.run(limit_partition_hold(QUEUE, [name], since + timedelta(seconds=seconds))))

    @rule(name=st.sampled_from(TENANTS))
    def release(self, name: str) -> None:
        if f'["{name}"]' in self.ground.do(self.queue.partitions()):
            self.ground.do(self.tx.run(limit_partition_release(QUEUE, [name])))

    @rule(frees=st.booleans(), idles=st.booleans())
    def remove(self, frees: bool, idles: bool) -> None:
        """The limit is removed and set again, with or without a pass of the leader in between."""
        self.ground.do(self._remove(frees=frees, idles=idles))

    async def _remove(self, *, frees: bool, idles: bool) -> None:
        await self.tx.run(limit_remove(QUEUE))
        if frees:
            await self.tx.run(limited_job_free(QUEUE))
        if idles:
            await self.tx.run(limit_partition_delete_idle(horizon=self.queue.now - timedelta(days=1)))
            left = (
                await self.queue.partitions()
            )  # without a limit, idle partitions are forgotten with their halts
            self.failed_finally = {key: id for key, id in self.failed_finally.items() if key in left}
        await self._set(self.limit)

    # The leader, and time.

    @rule(seconds=SECONDS)
    def schedule(self, seconds: int) -> None:
        """Time goes on, and the scheduler makes due jobs available."""
        self.ground.do(self._schedule(seconds))

    async def _schedule(self, seconds: int) -> None:
        self.queue.now += timedelta(seconds=seconds)
        await self.tx.fetch(
            "UPDATE river_job SET state = 'available' "
            "WHERE state IN ('retryable', 'scheduled') AND scheduled_at <= $1",
            [self.queue.now],
        )

    @rule()
    def maintain(self) -> None:
        self.ground.do(self._maintain())

    async def _maintain(self) -> None:
        now = self.queue.now
        await self.tx.run(limited_job_release_ended())
        await self.tx.run(limited_job_wait_again(now=now))
        await self.tx.run(limited_job_park(now=now))
        await self.tx.run(limited_job_begin_to_wait(now=now))
        await self.tx.run(limited_job_adopt_pending(QUEUE, now=now))
        await self.tx.run(limit_partition_delete_idle(horizon=now + timedelta(days=1)))
        if self.kind == "shared":
            await self.queue.collect()
            before = {key: row["running"] for key, row in (await self.queue.partitions()).items()}
            await self.tx.run(limited_job_admit_available(queue=QUEUE, limit=100, now=now))
            after = {key: row["running"] for key, row in (await self.queue.partitions()).items()}
            await self._admitted(
                Counter({key: num for key, num in after.items() if num > before.get(key, 0)})
            )

    @rule()
    def work_all(self) -> None:
        """After a collect and all admissions, whatever still waits has no free slot."""
        self.ground.do(self._work_all())

    async def _work_all(self) -> None:
        await self.queue.collect()
        for _ in range(30):
            if not await self._admit():
                break
        else:
            raise AssertionError("admissions say that there is more, without end")
        if self.limit.at_once_per_client is not None:
            return
        waiting = await self.tx.fetch(WAITING, [QUEUE, self.queue.now])
        reasons = ("is_full", "is_total_full", "opens_later")
        assert [row for row in waiting if not any(row[reason] for reason in reasons)] == []

    @invariant()
    def counts_agree(self) -> None:
        """What a partition counts are its admitted jobs, no more than it had slots when the last was admitted."""
        if hasattr(self, "queue"):
            self.ground.do(self._check())

    async def _check(self) -> None:
        await self.queue.check()
        assert await self.tx.run(limit_partition_get_differing()) == []
        assert await self.tx.run(limit_correct_totals()) == []
        for key, row in (await self.queue.partitions()).items():
            bound = self.bounds.get(key)
            assert row["running"] >= 0
            assert bound is None or row["running"] <= bound, (key, row["running"], bound)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            try:
                self.ground.do(self._drain())
            finally:
                self.ground.do(self._roll_back())

    async def _drain(self) -> None:
        """With a limit of two and time, everything that is left ends."""
        await self._set(Limit(at_once=2, by_args=["tenant"]))
        for _ in range(60):
            await self._resume(0)
            await self._schedule(3_600)
            await self._maintain()
            await self._work_all()
            if self.kind == "shared":
                await self._work_elsewhere(100, ends=False)
            await self._complete(range(100))
            left = await self.tx.fetch(
                f"SELECT id, state::text FROM river_job WHERE state NOT IN {ENDED} ORDER BY id"
            )
            if not left:
                break
        assert left == []
        await self._maintain()
        await self._check()
        assert [row for row in await self.queue.limited_jobs() if row["admitted_at"] is not None] == []

    async def _roll_back(self) -> None:
        try:
            async with self.stack:
                raise RolledBackError
        except RolledBackError:
            pass


async def drive(executor: Executor, *, max_examples: int, steps: int) -> None:
    """Let hypothesis drive machines, in its own thread."""
    ground = Ground(executor=executor, loop=asyncio.get_running_loop())
    machine = type("LimitMachine", (Machine,), {"ground": ground})
    chosen = settings(
        deadline=None,
        max_examples=max_examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)


@pytest.mark.slow
async def test_limits_hold_and_nobody_waits_in_vain(tx: Executor) -> None:
    """Counts are exact after each event, no partition is over its limit, and in the end everything was worked."""
    await drive(tx, max_examples=4, steps=20)


@pytest.mark.slow
async def test_limits_hold_in_many_orders_of_events(tx: Executor) -> None:
    """As above, with many more orders of events."""
    await drive(tx, max_examples=100, steps=40)
