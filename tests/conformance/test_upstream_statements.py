"""Values of River's conformance suite that statements write: notifications, and keys of metadata."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from factory import GENEROUS_SECONDS, NOW, insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import AttemptError, ClientId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.control import JobControl, QueueControl
from millhand.engine.store.job import Rescue, job_get_by_id, job_rescue_many
from millhand.engine.store.leader import leader_attempt_elect, leader_resign
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.testing import ManualClock
from river_suite import upstream

PROTOCOL = upstream("protocol_values")
KEYS = PROTOCOL["metadata_keys"]


async def test_commands_send_the_notifications_of_the_suite(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """notification_payload_bytes; each command of the suite sends its payload on its topic, and nothing else."""
    pool = schema_driver.pool
    queues = QueueControl(schema_driver, ManualClock())
    by_name = {one["name"]: one for one in PROTOCOL["notifications"]}
    await insert_job(pool, JobState.RUNNING, id=42, queue="priority")
    await pool.run(queue_create_or_set_updated_at("priority"))
    term = await pool.run(leader_attempt_elect(leader_id=ClientId("client-1"), ttl=timedelta(minutes=1)))
    assert term is not None
    received: list[tuple[str, Any]] = []
    ended = asyncio.Event()
    listener = schema_driver.listener()
    await listener.connect()
    for topic in PROTOCOL["topics"].values():
        await listener.listen(
            topic, lambda payload, topic=topic: received.append((topic, json.loads(payload)))
        )
    await listener.listen("end", lambda _: ended.set())

    await JobControl(schema_driver, ManualClock(), changes=JOB_CHANGES).cancel(42)
    async with Client(postgres_url, Config(schema=schema_driver.schema)) as client:
        await client.insert(RawArgs("act", "{}"), InsertOpts(queue="priority"))
        await queues.update("priority", metadata=by_name["metadata_changed"]["payload"]["metadata"])
        await queues.pause("priority")
        await client.request_resign()
    await pool.run(leader_resign(leader_id=term.leader_id, elected_at=term.elected_at))
    await queues.resume("priority")
    await pool.fetch("SELECT pg_notify($1 || '.end', '')", [schema_driver.schema])
    await asyncio.wait_for(ended.wait(), GENEROUS_SECONDS)
    await listener.close()

    names = ("cancel", "insert", "metadata_changed", "pause", "request_resign", "resigned", "resume")
    assert names == tuple(by_name)
    assert received == [(one["topic"], one["payload"]) for one in by_name.values()]


async def test_output_and_rescue_count_have_the_keys_of_the_suite(
    driver: AsyncpgDriver, connection: Any, tx: Executor
) -> None:
    """An output and a rescue are written below River's keys of metadata."""
    job = await insert_job(tx, JobState.RUNNING)
    rescue = Rescue(job.id, JobState.AVAILABLE, AttemptError(NOW, 1, "rescued"), scheduled_at=NOW)

    await JobControl(driver, ManualClock(), changes=JOB_CHANGES).update_output(
        job.id, {"n": 1}, tx=connection
    )
    await tx.run(job_rescue_many([rescue], stuck_horizon=NOW + timedelta(hours=1)))

    metadata = (await tx.run(job_get_by_id(job.id))).metadata
    assert metadata == {KEYS["output"]: {"n": 1}, KEYS["rescue_count"]: 1}
