"""Claims about texts that PostgreSQL cannot store, in the calls that take names and filters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from client_harness import Act, ClientHarness, harness  # noqa: F401 - a fixture
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import InvalidJob, InvalidText
from millhand.db.driver.detect import driver_at
from millhand.dead_jobs.dead_job import DeadJobFilters
from millhand.engine.store.job_list import JobFilters
from millhand.engine.store.where import Where
from millhand.flows.flow import Flow
from repeats import first_of

CALLS: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "name": lambda client, text: client.queues.pause(text),
    "kinds": lambda client, text: client.jobs.list(filters=JobFilters(kinds=["act", text])),
    "queues": lambda client, text: client.jobs.delete_many(JobFilters(queues=[text])),
    "queue": lambda client, text: client.limits.get(text),
    "ids": lambda client, text: client.schedules.pause(text),
    "error": lambda client, text: client.dead.list(DeadJobFilters(error=text)),
}
CHARACTERS = {"a\0": "the character U+0000", "a\ud800": "half a surrogate pair"}


@pytest.fixture(params=first_of("postgresql", "postgresql+psycopg"))
async def client(
    request: pytest.FixtureRequest,
    harness: ClientHarness,  # noqa: F811
) -> AsyncIterator[Client]:
    """A client by each of the two libraries, which have errors of their own."""
    url = harness.url.replace("postgresql", request.param, 1)
    async with Client(driver_at(url, pool_size=2), Config(skip_unknown_job_check=True)) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("text", CHARACTERS)
@pytest.mark.parametrize("subject", CALLS)
async def test_call_names_the_text_that_cannot_be_stored(client: Client, subject: str, text: str) -> None:
    """The error says which parameter has which character, and the client goes on."""
    with pytest.raises(InvalidText) as raised:
        await CALLS[subject](client, text)

    error = raised.value
    assert str(error) == (
        f"{subject} of {error.operation} must not hold {CHARACTERS[text]}, which PostgreSQL cannot store, "
        f"got {text!r} at 1; leave it out"
    )
    assert (error.subject, error.sqlstate, error.retryable) == (subject, "22021", False)
    await client.ping()


@pytest.mark.parametrize("text", CHARACTERS)
def test_condition_is_a_text_that_postgresql_can_read(text: str) -> None:
    """With U+0000 in the SQL, asyncpg took the server's answer for a lost connection."""
    with pytest.raises(ValueError, match=r"^where must be a text that PostgreSQL can read, got"):
        Where(f"kind = '{text}'")


@pytest.mark.parametrize("text", CHARACTERS)
def test_flow_and_task_have_storable_names(text: str) -> None:
    """Names of flows and tasks are checked when they are given."""
    with pytest.raises(InvalidJob, match=r"^name of a flow must be a text that PostgreSQL can store, got"):
        Flow(text)
    with pytest.raises(InvalidJob, match=r"^name of a task must be a text that PostgreSQL can store, got"):
        Flow("import").add(Act("x"), name=text)
