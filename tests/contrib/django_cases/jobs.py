from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from asgiref.sync import sync_to_async
from django.db import connection

from millhand import Job, Workers
from millhand.orphans import OrphansConfig, ReferenceSource

workers = Workers()


@dataclass(frozen=True)
class SeeThread:
    kind: ClassVar[str] = "see_thread"


@dataclass(frozen=True)
class SeeLoop:
    kind: ClassVar[str] = "see_loop"


@dataclass(frozen=True)
class FailInLoop:
    kind: ClassVar[str] = "fail_in_loop"


def orphans() -> OrphansConfig:
    source = ReferenceSource(name="orders", table="shop_order", key="customer", min_rows=0)
    return OrphansConfig(sources=[source])


def backend_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@workers.add()
def see_thread(job: Job[SeeThread]) -> None:
    job.record_output(backend_pid())


@workers.add()
async def see_loop(job: Job[SeeLoop]) -> None:
    job.record_output([await sync_to_async(backend_pid)() for _ in range(2)])


@workers.add()
async def fail_in_loop(job: Job[FailInLoop]) -> None:
    await sync_to_async(backend_pid)()
    raise ValueError("seen")
