"""The job: `millhand worker batch.jobs:config`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from batch import llm
from batch.database import body_of, connect, save_summary
from batch.rate_limit import RateLimit, RateLimited
from millhand import Config, InsertOpts, Job, JobCancel, JobSnooze, Workers

CALLS_PER_MINUTE = float(os.environ.get("LLM_CALLS_PER_MINUTE", "60"))
CALLS_AT_A_TIME = 8
PATIENCE_SECONDS = 60.0  # a job that would wait longer frees its slot

limit = RateLimit(per_minute=CALLS_PER_MINUTE)
workers = Workers()


@dataclass(frozen=True)
class Summarize:
    kind: ClassVar[str] = "summarize"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="llm", max_attempts=8)
    document_id: int


@workers.add(timeout=timedelta(minutes=5))  # for the limit and the answer
async def summarize(job: Job[Summarize]) -> None:
    """Store the summary of a document, and complete the job with it: no answer is paid for and then lost."""
    body = await body_of(job.args.document_id)
    if body is None:
        raise JobCancel("the document was deleted")
    try:
        await limit.wait(at_most=PATIENCE_SECONDS)
        summary = await llm.ask(f"Summarize in one sentence:\n\n{body}")
    except RateLimited as error:
        limit.pause(error.seconds)  # for all jobs of this process
        raise JobSnooze(timedelta(seconds=error.seconds)) from error  # no attempt is used up
    except llm.Rejected as error:
        raise JobCancel(str(error)) from error
    async with await connect() as connection:
        await save_summary(connection, job.args.document_id, summary)
        await job.complete(tx=connection)


# A queue of its own: slow calls never hold up other jobs, and the number of calls at a time is limited.
config = Config(workers=workers, queues={"llm": CALLS_AT_A_TIME})
