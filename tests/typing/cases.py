"""What a type checker sees of workers, args, steps and settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, assert_type

from millhand.core.args.codec import FunctionArgs
from millhand.core.config import Config, QueueConfig
from millhand.core.hooks import AttemptFailure
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.limit import Limit, Rate
from millhand.core.periodic import PeriodicJob, cron, every
from millhand.core.retry import ConstantRetryPolicy, DefaultRetryPolicy
from millhand.core.step import Cursor
from millhand.core.tx_types import Tx
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

workers = Workers()


@dataclass(frozen=True)
class SendEmail:
    kind: ClassVar[str] = "send_email"
    to: str
    subject: str


# A function of one job: its args are typed, and it stays the function it was.


@workers.add(timeout=timedelta(seconds=30))
async def send_email(job: Job[SendEmail]) -> None:
    assert_type(job.args, SendEmail)
    assert_type(job.args.to, str)
    assert_type(job.attempt, int)
    print(job.args.subjekt)  # type: ignore[attr-defined]
    job.attempt = 2  # type: ignore[misc]


async def call_it(job: Job[SendEmail], other: Job[str]) -> None:
    assert_type(await send_email(job), None)
    await send_email("a@example.com")  # type: ignore[arg-type]
    await send_email(other)  # type: ignore[arg-type]


# A function with plain parameters: still to be called, and its args are checked as a call would be.


@workers.add()
async def resize(key: str, width: int, *, mode: str = "fit") -> int:
    return len(key) * width


@workers.add(kind="image.rotate", insert_opts=InsertOpts(queue="images"))
def rotate(key: str) -> str:
    return key


assert_type(resize.args("a.png", width=80), FunctionArgs)
assert_type(resize.kind, str)
assert_type(rotate("a.png"), str)
resize.args("a.png")  # type: ignore[call-arg]
resize.args("a.png", "80")  # type: ignore[arg-type]
resize.args("a.png", 80, height=80)  # type: ignore[call-arg]
resize.args("a.png", 80, mode=1)  # type: ignore[arg-type]
rotate(7)  # type: ignore[arg-type]


@workers.add  # type: ignore[arg-type]
def without_brackets(key: str) -> None: ...


# An object that works.


class Mailer:
    async def work(self, job: Job[SendEmail]) -> None: ...


mailer = workers.add()(Mailer())


async def call_mailer(job: Job[SendEmail], other: Job[str]) -> None:
    await mailer.work(job)
    await mailer.work(other)  # type: ignore[arg-type]


# Steps: their functions are called as a call would be checked, and awaited or not as they are.


async def download(url: str, *, retries: int = 3) -> None: ...


async def count_rows(cursor: Cursor, url: str) -> None:
    cursor.set({"line": 1})
    await cursor.checkpoint(1, tx=url)  # type: ignore[arg-type]


async def measure(url: str) -> int:
    return len(url)


def unpack(path: str) -> None: ...


def unpack_from(cursor: Cursor, path: str) -> None: ...


async def import_all(job: Job[SendEmail], tx: Tx) -> None:
    assert_type(await job.step("download", download, "u", retries=5), None)
    await job.step_cursor("count", count_rows, "u")
    assert_type((await job.complete(tx=tx)).state, JobState)
    await job.checkpoint(tx=tx)
    await job.step("download", download)  # type: ignore[call-arg]
    await job.step("download", download, 7)  # type: ignore[arg-type]
    await job.step("download", download, "u", tries=5)  # type: ignore[call-arg]
    await job.step("measure", measure, "u")  # type: ignore[arg-type]
    await job.step("unpack", unpack, "p")  # type: ignore[arg-type]
    await job.step_cursor("download", download, "u")  # type: ignore[arg-type, call-arg]
    await job.complete()  # type: ignore[call-arg]
    job.step("download", download, "u")  # type: ignore[unused-coroutine]


def import_in_a_thread(job: Job[SendEmail]) -> None:
    job.step_sync("unpack", unpack, "p")
    job.step_cursor_sync("unpack", unpack_from, path="p")
    job.step_sync("download", download, "u")  # type: ignore[arg-type]


# Options and settings.


class Counting:
    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        assert_type(failure.state, JobState)
        return None


class Wrong:
    def next_retry(self) -> None: ...


Config(
    queues={"default": 100, "mail": QueueConfig(max_workers=5)},
    workers=workers,
    retry_policy=ConstantRetryPolicy(timedelta(seconds=1)),
    error_handlers=[Counting()],
    periodic_jobs=[every(timedelta(hours=1), SendEmail("a", "b")), cron("0 3 * * *", lambda: None)],
)
Config(queues={"default": "100"})  # type: ignore[dict-item]
Config(job_timeout=60)  # type: ignore[arg-type]
Config(retry_policy=Wrong())  # type: ignore[arg-type]
QueueConfig(5)  # type: ignore[call-arg]
QueueConfig(
    max_workers=5, limit=Limit(by_args=["tenant_id"], rate=Rate(90, per=timedelta(seconds=10), burst=1))
)
QueueConfig(max_workers=5, limit=3)  # type: ignore[arg-type]
Rate(90, per=timedelta(seconds=10))  # type: ignore[call-arg]
InsertOpts(scheduled_at="now")  # type: ignore[arg-type]
InsertOpts(unique=UniqueOpts(by_args=["customer_id", ("customer.id",)], by_state=set(JobState)))
UniqueOpts(by_args=7)  # type: ignore[arg-type]
every(60, SendEmail("a", "b"))  # type: ignore[arg-type]
workers.add(timeout=30)  # type: ignore[arg-type]
workers.add(retry=DefaultRetryPolicy)  # type: ignore[arg-type]


def schedule_of(job: PeriodicJob, after: datetime) -> datetime:
    return job.schedule.next(after)  # type: ignore[return-value]
