"""Both languages on one queue, while clients are replaced and with few connections."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from interop_harness import LANGUAGES, Harness, Language, Member
from river_program import started

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

NUM_JOBS = 500  # at each moment of a deployment, inserted by each language
NUM_ACTIVE_JOBS = 2_000
# One connection listens, and all fetches and completions share the other. River's listener leaves its pool, which opens
# another in its place; ours stays one of the pool's.
POOL_SIZE = 2
MOST_CONNECTIONS = {"river_interop_bound": POOL_SIZE + 1, "millhand_bound": POOL_SIZE}


@pytest.mark.slow
async def test_rolling_deployment_executes_each_job_once(harness: Harness) -> None:
    """
    16, 38: rolling_deployment_same_protocol.

    While clients of both languages are replaced one by one, each job is executed once.
    """
    settings: dict[str, Any] = {"is_quiet": True, "leads": True, "queues": {"default": 20}}
    executed: list[dict[str, int]] = []
    async with contextlib.AsyncExitStack() as stack:

        async def start(language: Language, id: str) -> Member:
            return await stack.enter_async_context(harness.working(language, id, **settings))

        members = {f"{one}_{n}": await start(one, f"{one}_{n}") for one in LANGUAGES for n in range(2)}
        for old in list(members):
            language: Language = "go" if old.startswith("go") else "python"
            await _insert_by_both(harness)
            members[f"{old}_new"] = await start(language, f"{old}_new")
            leaving = members.pop(old)
            await leaving.stop()
            executed += await leaving.executed()
        await _insert_by_both(harness)
        await harness.until(lambda: _is_all_completed(harness), "the end of all jobs")
        executed += [one for member in members.values() for one in await member.executed()]

    rows = await harness.rows()
    assert len(rows) == 5 * 2 * NUM_JOBS
    assert sorted(one["job"] for one in executed) == [row["id"] for row in rows]
    assert Counter((row["attempt"], row["errors"]) for row in rows) == {(1, None): len(rows)}
    assert {row["attempted_by"][0] for row in rows} >= {
        f"{one}_{n}_new" for one in LANGUAGES for n in range(2)
    }


@pytest.mark.slow
async def test_clients_do_not_exceed_their_connection_pools(harness: Harness, river_path: Path) -> None:
    """
    16: mixed_connection_pool_bound.

    A hundred workers of each language open no more connections than their pools allow.
    """
    peaks: Counter[str] = Counter()

    async def is_done() -> bool:
        rows = await harness.fetch(
            "SELECT application_name AS name, count(*) AS number FROM pg_stat_activity "
            "WHERE application_name = ANY ($1) GROUP BY application_name",
            list(MOST_CONNECTIONS),
        )
        for row in rows:
            peaks[row["name"]] = max(peaks[row["name"]], row["number"])
        return await _is_all_completed(harness)

    jobs = [{"kind": "act", "args": {"do": []}, "opts": {}} for _ in range(NUM_ACTIVE_JOBS)]
    pool = asyncpg.create_pool(
        harness.url, min_size=1, max_size=POOL_SIZE, server_settings={"application_name": "millhand_bound"}
    )
    bound = ("--max-connections", str(POOL_SIZE), "--application-name", "river_interop_bound")
    command = (str(river_path), "--database-url", harness.url, *bound)
    workers = Workers()

    @workers.add(kind="act")
    async def act(job: Job[dict[str, Any]]) -> None:
        assert job.args == {"do": []}

    config = Config(
        client_id="python_bound",
        heartbeat_interval=None,
        queues={"default": 100},
        schema=harness.schema,
        workers=workers,
    )
    async with pool, started(command) as river:
        settings: dict[str, Any] = {"is_quiet": True, "queues": {"default": 100}, "program": river}
        async with Client(pool, config), harness.working("go", "go_bound", **settings):
            for language in LANGUAGES:
                await harness.control(language).insert_many(jobs)
            await harness.until(is_done, "the end of all jobs")

    rows = await harness.fetch("SELECT DISTINCT unnest(attempted_by) AS id FROM /* schema */river_job")
    assert {row["id"] for row in rows} == {"go_bound", "python_bound"}
    assert set(peaks) == set(MOST_CONNECTIONS)
    assert all(peaks[name] <= most for name, most in MOST_CONNECTIONS.items()), peaks


async def _insert_by_both(harness: Harness) -> None:
    jobs = [{"kind": "act", "args": {"do": []}, "opts": {}} for _ in range(NUM_JOBS)]
    for language in LANGUAGES:
        await harness.control(language).insert_many(jobs)


async def _is_all_completed(harness: Harness) -> bool:
    [row] = await harness.fetch("SELECT bool_and(state = 'completed') AS is_done FROM /* schema */river_job")
    return bool(row["is_done"])
