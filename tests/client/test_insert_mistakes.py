"""What a person reads who inserts as another library's users do, or uses a client that is not started."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import asyncpg
import pydantic
import pytest

from factory import ROW
from millhand import Client, Config, InsertOpts, Job, JobRow, PeriodicJob, SyncClient, Workers, every
from millhand.core.errors import ConfigError, InvalidJob, PoolClosed

URL = "postgresql://nobody@localhost/nothing"
workers = Workers()


@dataclass(frozen=True)
class SendEmail:
    kind: ClassVar[str] = "send_email"
    to: str


class Digest(pydantic.BaseModel):
    kind: ClassVar[str] = "digest"
    to: str


@dataclass(frozen=True)
class Kindless:
    to: str


@workers.add()
async def send_email(job: Job[SendEmail]) -> None: ...


@workers.add()
async def resize(key: str, width: int = 80) -> None: ...


@workers.add()
def rotate(key: str) -> None: ...


class Mailer:
    async def work(self, job: Job[SendEmail]) -> None: ...


async def unregistered(key: str) -> None: ...


EMAIL = SendEmail("ada@example.com")
NOT_STARTED = "client must be started before it is used, got one that is not; write `{}`"
NO_ARGS = "args must be a value of an args class, got "


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        (lambda: send_email, "worker function send_email; write SendEmail(…)"),
        (lambda: resize, "worker function resize; write resize.args(…)"),
        (lambda: resize.args, "method resize.args; write resize.args(…)"),
        (lambda: resize("a.png"), "a call of resize; write resize.args(…)"),
        (lambda: send_email(EMAIL), "a call of send_email; write SendEmail(…)"),  # type: ignore[arg-type]
        (lambda: rotate("a.png"), "None; do not call the function of a job, write function.args(…)"),  # type: ignore[func-returns-value]
        (lambda: SendEmail, "class SendEmail; write SendEmail(…)"),
        (lambda: Mailer, "worker Mailer; write SendEmail(…)"),
        (Mailer, "worker Mailer; write SendEmail(…)"),
        (lambda: Mailer().work, "worker function Mailer.work; write SendEmail(…)"),
        (
            lambda: unregistered,
            "function unregistered; decorate it with @workers.add() and write unregistered.args(…)",
        ),
        (lambda: "send_email", "'send_email'; for a kind without a class write RawArgs('send_email', '{…}')"),
        (lambda: {"to": "ada"}, "a dict; for a kind without a class write RawArgs('kind', json.dumps(…))"),
        (lambda: [EMAIL], "a list; for several jobs write insert_many([…])"),
        (lambda: Job(ROW, EMAIL), "a Job; write job.args"),
        (lambda: JobRow(*[None] * 18), "a JobRow; to work its job again write client.jobs.retry(row.id)"),
    ],
)
async def test_insert_names_what_was_passed_in_place_of_args(passed: Callable[[], object], told: str) -> None:
    """The error names the worker, class or call that was passed, and what to write; each kind of insert raises it."""
    client, sync_client = Client(URL, Config(workers=workers)), SyncClient(URL)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a coroutine that Python also reports as never awaited would confuse
        for insert in (
            lambda: client.insert(passed()),  # type: ignore[arg-type]
            lambda: client.insert_many([EMAIL, passed()]),  # type: ignore[list-item]
            lambda: client.insert_many_fast([passed()]),  # type: ignore[list-item]
        ):
            with pytest.raises(InvalidJob) as refused:
                await insert()
            assert str(refused.value) == NO_ARGS + told
        with pytest.raises(InvalidJob) as refused:
            sync_client.insert(passed())  # type: ignore[arg-type]

    assert str(refused.value) == NO_ARGS + told


@pytest.mark.parametrize(
    ("insert", "told"),
    [
        (
            lambda client: client.insert(EMAIL, {"queue": "mail"}),
            "opts must be InsertOpts, got {'queue': 'mail'}; write InsertOpts(queue=…)",
        ),
        (
            lambda client: client.insert(EMAIL, InsertOpts),
            f"opts must be InsertOpts, got {InsertOpts}; write InsertOpts(queue=…)",
        ),
        (
            lambda client: client.insert_many(EMAIL),
            "jobs must be a list of args, got SendEmail; write [SendEmail(…)]",
        ),
        (
            lambda client: client.insert_many(Digest(to="ada")),
            "jobs must be a list of args, got Digest; write [Digest(…)]",
        ),
        (
            lambda client: client.insert_many_fast(EMAIL),
            "jobs must be a list of args, got SendEmail; write [SendEmail(…)]",
        ),
        (lambda client: client.insert_many(None), "jobs must be a list of args, got NoneType; write [args]"),
        (
            lambda client: client.insert_many([(EMAIL, None, "mail")]),
            "a job must be args, or a pair of args and InsertOpts, got a tuple of 3",
        ),
        (
            lambda client: client.insert_many_fast([(EMAIL, None, "mail")]),
            "a job must be args, or a pair of args and InsertOpts, got a tuple of 3",
        ),
        (
            lambda client: client.insert(Kindless("ada")),
            "args class must declare its kind as `kind: ClassVar[str] = …`, got Kindless without it",
        ),
    ],
)
async def test_insert_names_what_is_wrong_with_options_and_lists(
    insert: Callable[[Any], Any], told: str
) -> None:
    """The error says what was passed in place of options or a list of jobs, and what to write."""
    with pytest.raises(InvalidJob) as refused:
        await insert(Client(URL))

    assert str(refused.value) == told


@pytest.mark.parametrize(
    "name",
    [
        "delay",
        "insert",
        "insert_many",
        "apply_async",
        "send",
        "send_with_options",
        "enqueue",
        "defer",
        "defer_async",
        "kiq",
        "s",
    ],
)
def test_worker_function_names_the_insert_for_another_librarys_method(name: str) -> None:
    """Celery's `delay`, and the like of other libraries, raise an error with the call to write."""
    with pytest.raises(AttributeError) as refused:
        getattr(resize, name)

    assert str(refused.value) == (
        f"worker function resize has no {name}; write `await client.insert(resize.args(…))`"
    )
    assert not hasattr(resize, name)


def test_worker_function_has_no_other_attributes() -> None:
    """A name that no library uses gets Python's own error."""
    with pytest.raises(AttributeError, match=r"^'JobFunction' object has no attribute 'nothing'$"):
        resize.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_decorator_without_brackets_is_refused() -> None:
    """Celery's `@app.task` needs no brackets, so the error for `@workers.add` shows them."""
    with pytest.raises(ConfigError) as refused:
        workers.add(unregistered)  # type: ignore[arg-type]

    assert str(refused.value) == (
        f"workers.add must have brackets, got {__name__}.unregistered without; write @workers.add()"
    )


MAIL = "InsertOpts(queue=…, priority=…)"
LATER = "InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(…))"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"queue": "mail", "priority": 2},
            f"insert must get its own parameters, got 'queue', 'priority'; write {MAIL}",
        ),
        ({"delay": 5}, f"insert must get its own parameters, got 'delay'; write {LATER}"),
        ({"nothing": 5}, "insert must get its own parameters, got 'nothing'"),
    ],
)
async def test_keyword_of_another_library_is_answered_with_options(given: dict[str, Any], told: str) -> None:
    """An insert with Celery's keywords raises an error with the options to write, before anything is sent."""
    with pytest.raises(TypeError) as refused:
        await Client(URL).insert(EMAIL, **given)
    with pytest.raises(TypeError) as refused_at_once:
        SyncClient(URL).insert(EMAIL, **given)

    assert (str(refused.value), str(refused_at_once.value)) == (told, told)


@pytest.mark.parametrize(
    ("given", "write"),
    [
        ({"name": "a", "time_limit": 5}, "; write kind=…, timeout=timedelta(seconds=…)"),
        (
            {"queue": "mail", "max_retries": 3},
            (
                "; write insert_opts=InsertOpts(queue=…, max_attempts=…); "
                "in an args class, write `insert_opts: ClassVar[InsertOpts] = …`"
            ),
        ),
        ({"bind": True}, ""),
    ],
)
def test_keyword_of_another_librarys_decorator_is_answered(given: dict[str, Any], write: str) -> None:
    """The decorator with the keywords of another library raises an error with the parameters to write."""
    with pytest.raises(TypeError) as refused:
        Workers().add(**given)

    got = ", ".join(map(repr, given))
    assert str(refused.value) == f"workers.add must get its own parameters, got {got}{write}"


def test_periodic_job_names_what_was_passed_in_place_of_args() -> None:
    """A worker function in place of a periodic job's args gives the error of an insert."""
    with pytest.raises(ConfigError) as refused:
        every(timedelta(days=1), resize)  # type: ignore[arg-type]

    assert str(refused.value) == (
        f"args of a periodic job are unusable: {NO_ARGS}worker function resize; write resize.args(…)"
    )


@pytest.mark.parametrize("database", [URL, "postgresql+psycopg://nobody@localhost/nothing"])
async def test_client_that_is_not_started_names_how_to_start_it(database: str) -> None:
    """Every use of a client that was not started, or was stopped, raises an error with both ways to start it."""
    client = Client(database)
    told = NOT_STARTED.format("async with Client(…) as client") + " or `await client.start()`"
    uses: list[Callable[[], Any]] = [
        lambda: client.insert(EMAIL),
        lambda: client.insert_many_fast([EMAIL]),
        client.jobs.list,
        client.queues.list,
        client.clients.list,
        client.ping,
        client.request_resign,
        client.wait_crashed,
        lambda: client.add_queue("mail", 1),
    ]
    for use in uses:
        with pytest.raises((PoolClosed, ConfigError)) as refused:
            await use()
        assert str(refused.value) == told
    for plain_use in (lambda: client.loop, lambda: client.add_periodic_job(PeriodicJob)):  # type: ignore[arg-type]
        with pytest.raises(ConfigError) as refused:
            plain_use()
        assert str(refused.value) == told


async def test_client_on_a_pool_that_is_not_started_names_how_to_start_it() -> None:
    """A client on a pool of the caller's needs a start too, and its error says so."""
    with pytest.raises(PoolClosed) as refused:
        await Client(asyncpg.create_pool(URL)).insert(EMAIL)

    assert str(refused.value) == (
        NOT_STARTED.format("async with Client(…) as client") + " or `await client.start()`"
    )


def test_sync_client_that_is_not_started_names_how_to_start_it() -> None:
    """The error of a `SyncClient` shows its own two ways to start it."""
    with pytest.raises(PoolClosed) as refused:
        SyncClient(URL).insert(EMAIL)

    assert str(refused.value) == NOT_STARTED.format("with SyncClient(…) as client") + " or `client.start()`"
