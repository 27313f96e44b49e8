"""The LLM batch: a provider that answers 429 with Retry-After, fails once, and rejects one document."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from application import commands, run, started
from http_server import Answer, Asked, http_server

from millhand import Client, JobFilters, JobRow
from served import until

pytestmark = pytest.mark.slow

BATCH = "llm_batch"
PAUSE_SECONDS = 6.0  # longer than all calls would take without a pause
SUMMARIES = JobFilters(kinds=["summarize"])  # without the worker's own heartbeats


class Provider:
    """The provider's server: its first answer is 429, one document is rejected, and another fails once."""

    def __init__(self) -> None:
        self.answers: list[tuple[float, int]] = []
        self.failed: set[str] = set()

    def __call__(self, asked: Asked) -> Answer:
        assert asked.path == "/v1/chat/completions"
        document = json.loads(asked.body)["messages"][0]["content"].splitlines()[-1]
        answered = self.answer(document)
        self.answers.append((time.monotonic(), answered.status))
        return answered

    def answer(self, document: str) -> Answer:
        if not self.answers:
            return Answer(429, headers={"Retry-After": str(PAUSE_SECONDS)})
        if document == "poison":
            return Answer(400, "content policy")
        if document == "unlucky" and document not in self.failed:
            self.failed.add(document)
            return Answer(500)
        message = {"role": "assistant", "content": f"about {document}"}
        return Answer(200, json.dumps({"choices": [{"message": message}]}))


async def test_batch_waits_as_long_as_the_provider_asks(empty_url: str, tmp_path: Path) -> None:
    """After 429, no call starts before `Retry-After` has passed, and no attempt is used up; each document is settled."""
    provider = Provider()
    documents = tmp_path / "documents.txt"
    documents.write_text("apples\npears\n\npoison\nunlucky\nplums\n")
    setup, _, work = commands(BATCH)
    with http_server(provider) as address:
        variables = {"DATABASE_URL": empty_url, "LLM_URL": f"{address}/v1", "LLM_CALLS_PER_MINUTE": "100"}
        await run(BATCH, setup, **variables)
        submitted = await run(BATCH, f"python -m batch submit {documents}", **variables)
        async with started(BATCH, work, **variables) as worker, Client(empty_url) as client:

            async def jobs() -> list[JobRow]:
                return (await client.jobs.list(SUMMARIES)).jobs

            settled = await until(jobs, lambda rows: all(row.state.is_finalized for row in rows))
            code = await worker.stop()
        results = await run(BATCH, "python -m batch results 1", **variables)

    times = [at for at, _ in provider.answers]
    assert submitted == "batch 1 has 5 documents"
    assert results.splitlines() == [
        "1: about apples",
        "2: about pears",
        "3: not yet",
        "4: about unlucky",
        "5: about plums",
    ]
    assert [(row.attempt, row.errors[-1].error if row.errors else "") for row in settled] == [
        (1, ""),
        (1, ""),
        (1, "JobCancelError: the provider answered 400: content policy"),
        (2, settled[3].errors[0].error),
        (1, ""),
    ]
    assert "500 Internal Server Error" in settled[3].errors[0].error
    assert sum(row.metadata.get("snoozes", 0) for row in settled) == 1
    assert sorted(status for _, status in provider.answers) == [200, 200, 200, 200, 400, 429, 500]
    # On a slow machine, a few calls may already be under way when the 429 arrives; the others wait.
    num_early = sum(at - times[0] < PAUSE_SECONDS for at in times[1:])
    assert num_early <= 3
    assert times[-1] - times[0] >= PAUSE_SECONDS + (5 - num_early) * 60 / 100  # 100 a minute
    assert code == 0, worker.text


async def test_jobs_do_not_wait_in_a_slot_for_an_hour(empty_url: str) -> None:
    """If the provider asks for an hour, one call is enough for all: every job is snoozed, and the worker is free."""
    asked: list[Asked] = []

    def an_hour(one: Asked) -> Answer:
        asked.append(one)
        return Answer(429, headers={"Retry-After": "3600"})

    setup, submit, work = commands(BATCH)
    with http_server(an_hour) as address:
        variables = {"DATABASE_URL": empty_url, "LLM_URL": f"{address}/v1", "LLM_CALLS_PER_MINUTE": "20"}
        await run(BATCH, setup, **variables)
        submitted = await run(BATCH, submit, **variables)
        await run(BATCH, f"{work} --until-empty", **variables)
    async with Client(empty_url) as client:
        jobs = (await client.jobs.list(SUMMARIES)).jobs

    assert submitted == "batch 1 has 3 documents"
    assert [(row.state, row.attempt, row.metadata["snoozes"]) for row in jobs] == [("scheduled", 0, 1)] * 3
    assert len(asked) == 1


async def test_retry_after_may_be_seconds_or_a_date() -> None:
    """`Retry-After` holds seconds, or a date, here of the past; without either, the pause is ten seconds."""
    program = (
        "import httpx; from batch.llm import pause_of; "
        "values = '7', 'Wed, 21 Oct 2015 07:28:00 GMT', 'soon', ''; "
        "print([pause_of(httpx.Response(429, headers={'Retry-After': value})) for value in values])"
    )

    assert await run(BATCH, f'python -c "{program}"') == "[7.0, 0.0, 10.0, 10.0]"
