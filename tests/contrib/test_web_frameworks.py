"""Claims about the clients of Starlette, FastAPI and Flask applications."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import asyncpg
import flask
import httpx
import pytest
import sqlalchemy
from fastapi import Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from millhand import Client, Config, ConfigError, Job, SchemaError, SyncClient, Workers
from millhand.contrib.flask import MillhandFlask
from millhand.contrib.starlette import get_client, millhand_lifespan


@dataclass(frozen=True)
class Note:
    kind: ClassVar[str] = "note"
    text: str


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run an application as a server does, in this event loop."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as http,
    ):
        yield http


@pytest.mark.slow
async def test_fastapi_s_dependency_is_the_client_of_the_lifespan(postgres_url: str, schema: str) -> None:
    """A route gets the running client and inserts in its own transaction; the client stops with the app."""
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append("opened")
        async with asyncpg.create_pool(postgres_url, min_size=1, max_size=4) as pool:
            app.state.pool = pool
            yield {"colour": "green"}
        seen.append("closed")

    lifespan = millhand_lifespan(lambda app: app.state.pool, Config(schema=schema), around=around)
    app = FastAPI(lifespan=lifespan)

    @app.post("/notes")
    async def note(client: Annotated[Client, Depends(get_client)], text: str) -> int:
        async with app.state.pool.acquire() as connection, connection.transaction():
            job = (await client.insert(Note(text), tx=connection)).job
            if text == "no":
                raise ZeroDivisionError
        seen.append(text)
        return job.id

    async with running(app) as http:
        client = app.state.millhand
        first = await http.post("/notes", params={"text": "yes"})
        with pytest.raises(ZeroDivisionError):
            await http.post("/notes", params={"text": "no"})
        jobs = (await client.jobs.list()).jobs

    assert (first.json(), [job.args for job in jobs]) == (jobs[0].id, [{"text": "yes"}])
    assert seen == ["opened", "yes", "closed"]
    assert not hasattr(app.state, "millhand")
    with pytest.raises(ConfigError, match="must be started before it is used"):
        await client.wait_crashed()


@pytest.mark.slow
async def test_starlette_works_jobs_in_its_own_process(postgres_url: str, schema: str) -> None:
    """A client with queues works jobs, and the application's own lifespan keeps its state."""
    workers = Workers()

    @workers.add()
    async def note(job: Job[Note]) -> None:
        job.record_output(job.args.text)

    async def post(request: Request) -> JSONResponse:
        client = get_client(request)
        with client.subscribe("job_completed") as events:
            await client.insert(Note("hello"))
            event = await anext(events)
        return JSONResponse({"output": event.job.output, "state": request.state.colour})

    @contextlib.asynccontextmanager
    async def around(app: Starlette) -> AsyncIterator[dict[str, str]]:
        yield {"colour": "green"}

    config = Config(workers=workers, queues={"default": 2}, schema=schema)
    app = Starlette(
        routes=[Route("/", post, methods=["POST"])],
        lifespan=millhand_lifespan(postgres_url, config, around=around),
    )
    async with (
        app.router.lifespan_context(app) as state,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(WithState(app, state)), base_url="http://app"
        ) as http,
    ):
        answer = await http.post("/")

    assert answer.json() == {"output": "hello", "state": "green"}


async def test_application_does_not_start_without_its_tables(postgres_url: str) -> None:
    """Without a migrated schema the application does not start, and its own lifespan is closed."""
    closed: list[bool] = []

    @contextlib.asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            closed.append(True)

    app = FastAPI(lifespan=millhand_lifespan(postgres_url, Config(schema="nowhere"), around=around))
    with pytest.raises(SchemaError):
        async with app.router.lifespan_context(app):
            pass

    assert closed == [True]


async def test_route_without_a_lifespan_is_an_error() -> None:
    """The error of an application without a client has the remedy."""
    app = FastAPI()

    @app.get("/")
    async def look(client: Annotated[Client, Depends(get_client)]) -> None:
        """Never get here."""

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
        with pytest.raises(ConfigError) as refused:
            await http.get("/")

    assert str(refused.value) == (
        "application must have started a client, got none; pass lifespan=millhand_lifespan(…), and enter the "
        "application's lifespan in tests"
    )


def test_flask_s_session_holds_the_job(postgres_url: str, schema: str) -> None:
    """One extension serves two applications, on an engine and on a URL; a rolled-back session leaves no job."""
    engine = sqlalchemy.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    on_engine, on_url = flask.Flask("on_engine"), flask.Flask("on_url")
    on_url.config["MILLHAND_DATABASE_URL"] = postgres_url
    extension = MillhandFlask(on_engine, engine, Config(schema=schema))
    extension.init_app(on_url, config=Config(schema=schema))

    with on_engine.app_context(), sqlalchemy.orm.Session(engine) as session:
        extension.client.insert(Note("gone"), tx=session)
        session.rollback()
        extension.client.insert(Note("kept"), tx=session)
        session.commit()
    with on_url.app_context():
        client = extension.client
        client.insert(Note("alone"))
        texts = [job.args for job in extension.client.jobs.list().jobs]
        client.stop()
    engine.dispose()

    assert texts == [{"text": "kept"}, {"text": "alone"}]
    assert isinstance(client, SyncClient)


def test_flask_without_database_or_client_is_an_error() -> None:
    """An application without a database or a client gets an error with a remedy."""
    app = flask.Flask("shop")
    with pytest.raises(ConfigError) as no_database:
        MillhandFlask(app)
    with app.app_context(), pytest.raises(ConfigError) as no_client:
        MillhandFlask().client.jobs.list()

    assert str(no_database.value) == (
        "database must be given, got none; pass one to init_app, or set MILLHAND_DATABASE_URL in app.config"
    )
    assert str(no_client.value) == "app 'shop' must have a client, got none; call init_app first"


class WithState:
    """Stores the state of a lifespan as a server does."""

    def __init__(self, app: Any, state: Any) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "state": dict(self._state)}, receive, send)
