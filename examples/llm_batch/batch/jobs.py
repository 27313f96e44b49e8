"""The job: `millhand worker batch.jobs:config`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from batch import llm
from batch.database import body_of, connect, save_summary
from batch.rate_limit import RateLimit
from millhand import Config, InsertOpts, Job, JobCancel, JobSnooze, Workers

CALLS_PER_MINUTE = float(os.environ.get("LLM_CALLS_PER_MINUTE", "60"))
CALLS_AT_A_TIME = 8

limit = RateLimit(per_minute=CALLS_PER_MINUTE)
workers = Workers()


@dataclass(frozen=True)
class Summarize:
    kind: ClassVar[str] = "summarize"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="llm", max_attempts=8)
    document_id: int


@workers.add(timeout=timedelta(minutes=10))  # most of it may be spent on waiting for the limit
async def summarize(job: Job[Summarize]) -> None:
    """Store the summary of a document, and complete the job with it: no answer is paid for and then lost."""
    body = await body_of(job.args.document_id)
    if body is None:
        raise JobCancel("the document was deleted")
    await limit.wait()
    try:
        summary = await llm.ask(f"Summarize in one sentence:\n\n{body}")
    except llm.RateLimited as error:
        limit.pause(error.seconds)  # for the other jobs of this process as well
        raise JobSnooze(timedelta(seconds=error.seconds)) from error  # no attempt is used up
    except llm.Rejected as error:
        raise JobCancel(str(error)) from error
    async with await connect() as connection:
        await save_summary(connection, job.args.document_id, summary)
        await job.complete(tx=connection)


# A queue of its own: slow calls never hold up other jobs, and the number of calls at a time is limited.
config = Config(workers=workers, queues={"llm": CALLS_AT_A_TIME})
