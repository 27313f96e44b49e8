from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import django
import django.db
import psycopg
import pytest
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.conninfo import conninfo_to_dict

from millhand import (
    Config,
    ConfigError,
    ConnectionLost,
    DriverError,
    Flow,
    InsertOpts,
    SyncClient,
    UniqueConflict,
    UniqueOpts,
    WaitTimeout,
)

ALIAS = "driver"


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    name: str


@pytest.fixture(params=["connection", "pool of Django's"])
def connection(
    request: pytest.FixtureRequest, postgres_url: str, schema: str
) -> Iterator[BaseDatabaseWrapper]:
    """A database of Django's."""
    if "pool" in request.param and django.VERSION < (5, 1):
        pytest.skip("Django has pools since 5.1")
    if not settings.configured:  # by other tests
        settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    where = conninfo_to_dict(postgres_url)
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    given = {name: where.get(key, "") for name, key in names.items()}
    options = {"pool": {"min_size": 1, "max_size": 4}} if "pool" in request.param else {}
    engine = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options}
    connections.settings[ALIAS] = connections.configure_settings({"default": {**given, **engine}})["default"]
    wrapper = connections[ALIAS]
    yield wrapper
    wrapper.close()
    if options:
        wrapper.close_pool()
    del connections[ALIAS]
    del connections.settings[ALIAS]


@pytest.fixture
def client(connection: BaseDatabaseWrapper, schema: str) -> SyncClient:
    return SyncClient(using=ALIAS, config=Config(schema=schema))


@pytest.fixture
def observer(postgres_url: str, schema: str) -> Iterator[Observer]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield Observer(connection, schema)


class Observer:
    """Another connection that reads committed jobs and receives notifications."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection = connection
        self._queues: list[str] = []
        self._schema = schema
        connection.add_notify_handler(
            lambda notification: self._queues.append(json.loads(notification.payload)["queue"])
        )
        connection.execute(f'LISTEN "{schema}.river_insert"')

    def names(self) -> list[str]:
        rows = self._connection.execute(f"SELECT args->>'name' FROM {self._schema}.river_job ORDER BY id")
        return [name for (name,) in rows]

    def notified(self) -> list[str]:
        """Return the queues that were announced until now."""
        end = json.dumps({"queue": "end"})
        self._connection.execute("SELECT pg_notify(%s, %s)", [f"{self._schema}.river_insert", end])
        for _ in range(1000):
            if "end" in self._queues:
                break
            self._connection.execute("SELECT 1")
        return self._queues[:-1]


def queue(name: str) -> InsertOpts:
    return InsertOpts(queue=name)


@pytest.mark.second_driver
@pytest.mark.slow
def test_job_is_part_of_the_atomic_block(client: SyncClient, observer: Observer) -> None:
    """A job and its notification are committed or rolled back with the block; without a block, committed at once."""
    client.insert(Act("alone"), queue("alone"))
    at_once = observer.names()
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert(Act("gone"), queue("gone"))
        raise ZeroDivisionError
    with transaction.atomic(using=ALIAS):
        client.insert_many([(Act("kept"), queue("kept"))])
        before = observer.names()

    assert (at_once, before) == (["alone"], ["alone"])
    assert observer.names() == ["alone", "kept"]
    assert observer.notified() == ["alone", "kept"]


@pytest.mark.second_driver
@pytest.mark.slow
def test_flow_is_part_of_the_atomic_block(client: SyncClient, observer: Observer) -> None:
    """A flow and its jobs are committed or rolled back with the block; without a block, committed at once."""
    client.insert_flow(chain("alone"))
    at_once = observer.names()
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert_flow(chain("gone"))
        raise ZeroDivisionError
    with transaction.atomic(using=ALIAS):
        kept = client.insert_flow(chain("kept"))
        before = observer.names()
        client.flows.cancel(kept.id)

    assert (at_once, before) == (["alone", "alone 2"], ["alone", "alone 2"])
    assert observer.names() == ["alone", "alone 2", "kept", "kept 2"]
    assert [(flow.name, flow.state.value) for flow in client.flows.list()] == [
        ("kept", "cancelled"),
        ("alone", "running"),
    ]


def chain(name: str) -> Flow:
    """A flow of two tasks, the second after the first."""
    flow = Flow(name)
    flow.add(Act(f"{name} 2"), after=flow.add(Act(name)))
    return flow


@pytest.mark.second_driver
@pytest.mark.slow
def test_nested_blocks_are_savepoints(
    client: SyncClient, connection: BaseDatabaseWrapper, observer: Observer
) -> None:
    """A rolled back inner block removes only its own jobs; so does a failed COPY."""
    unique = InsertOpts(unique=UniqueOpts(by_args=True))
    with transaction.atomic(using=ALIAS):
        client.insert(Act("first"), unique)
        with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
            client.insert(Act("second"))
            with transaction.atomic(using=ALIAS):
                client.insert(Act("third"))
            raise ZeroDivisionError
        with contextlib.suppress(Exception):
            client.insert_many_fast([Act("fourth"), (Act("first"), unique)])
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        client.insert_many_fast([Act("fifth")])

    assert observer.names() == ["first", "fifth"]


@pytest.mark.second_driver
@pytest.mark.slow
def test_block_marked_for_rollback_removes_the_job(client: SyncClient, observer: Observer) -> None:
    """After `set_rollback` an insert is an error, as any statement of Django's, and nothing is committed."""
    with transaction.atomic(using=ALIAS):
        client.insert(Act("gone"))
        transaction.set_rollback(True, using=ALIAS)
        with pytest.raises(transaction.TransactionManagementError):
            client.insert(Act("never"))

    assert (observer.names(), observer.notified()) == ([], [])


@pytest.mark.second_driver
@pytest.mark.slow
def test_django_s_own_commit_commits_the_job(
    client: SyncClient, connection: BaseDatabaseWrapper, observer: Observer
) -> None:
    """Without autocommit a job is committed by the caller's commit."""
    transaction.set_autocommit(False, using=ALIAS)
    client.insert(Act("gone"))
    transaction.rollback(using=ALIAS)
    client.insert(Act("kept"))
    before = observer.names()
    transaction.commit(using=ALIAS)
    transaction.set_autocommit(True, using=ALIAS)

    assert (before, observer.names()) == ([], ["kept"])


@pytest.mark.second_driver
@pytest.mark.slow
def test_cursor_of_django_s_continues(
    client: SyncClient, connection: BaseDatabaseWrapper, observer: Observer
) -> None:
    """A server-side cursor, as of `iterator()`, continues after inserts."""
    with transaction.atomic(using=ALIAS), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 1000)")
        read = [cursor.fetchone(), cursor.fetchone()]
        client.insert(Act("one"))
        client.insert_many_fast([Act("two"), Act("three")])
        read += [cursor.fetchone()]

    assert (read, observer.names()) == ([(1,), (2,), (3,)], ["one", "two", "three"])


@pytest.mark.second_driver
@pytest.mark.slow
def test_connection_of_django_s_is_a_tx(
    connection: BaseDatabaseWrapper, observer: Observer, postgres_url: str, schema: str
) -> None:
    """Any client accepts Django's connection as `tx`, and as its database."""
    client = SyncClient(postgres_url, Config(schema=schema))
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert(Act("gone"), tx=connection)
        raise ZeroDivisionError
    with transaction.atomic(using=ALIAS):
        job = client.insert(Act("kept"), tx=connection).job
        SyncClient(connection, Config(schema=schema)).jobs.cancel(job.id)
        before = observer.names()

    assert (before, observer.names()) == ([], ["kept"])


@pytest.mark.second_driver
@pytest.mark.slow
def test_each_thread_has_its_connection(client: SyncClient, observer: Observer) -> None:
    """An insert in another thread uses that thread's connection, outside of this one's block."""

    def insert() -> None:
        try:
            client.insert(Act("other"))
        finally:
            connections[ALIAS].close()

    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert(Act("this"))
        with ThreadPoolExecutor(1) as threads:
            threads.submit(insert).result()
        raise ZeroDivisionError

    assert observer.names() == ["other"]


@pytest.mark.second_driver
@pytest.mark.slow
def test_errors_are_driver_errors_and_django_continues(
    client: SyncClient, connection: BaseDatabaseWrapper, observer: Observer, schema: str
) -> None:
    """A server error is a DriverError, Django's own errors are unchanged, and the next block works."""

    def read_only() -> None:
        with transaction.atomic(using=ALIAS), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            client.insert(Act("x"))

    def twice() -> None:
        insert = f"INSERT INTO {schema}.river_queue (name, updated_at) VALUES ('q', now()), ('q', now())"
        with transaction.atomic(using=ALIAS), connection.cursor() as cursor:
            client.insert(Act("gone"))
            cursor.execute(insert)

    with pytest.raises(DriverError) as refused:
        read_only()
    with pytest.raises(IntegrityError):
        twice()
    client.insert(Act("kept"))

    assert refused.value.sqlstate == "25006"
    assert observer.names() == ["kept"]


@pytest.mark.second_driver
@pytest.mark.slow
def test_lost_connection_is_replaced_by_django(
    client: SyncClient, connection: BaseDatabaseWrapper, observer: Observer
) -> None:
    """A connection that the server ended raises once; Django replaces it at the end of the request."""
    with contextlib.suppress(django.db.Error), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.errors_occurred = False
    with pytest.raises(ConnectionLost):
        client.insert(Act("lost"))
    connection.close_if_unusable_or_obsolete()
    client.insert(Act("kept"))

    assert observer.names() == ["kept"]


@pytest.mark.second_driver
@pytest.mark.slow
def test_migrated_schema_is_accepted(client: SyncClient, schema: str) -> None:
    """A client on Django finds nothing to migrate, and its start succeeds."""
    with client:
        assert client.migrate() == ()


@pytest.mark.second_driver
@pytest.mark.slow
def test_using_with_a_database_is_an_error(connection: BaseDatabaseWrapper) -> None:
    """Two databases for one client are an error."""
    with pytest.raises(ConfigError) as refused:
        SyncClient("postgresql://x@/x", using=ALIAS)

    assert str(refused.value) == "using must be all that names a database, got 'driver' and a builtins.str"


@pytest.mark.slow
def test_wait_inside_a_django_transaction_is_refused(client: SyncClient, observer: Observer) -> None:
    """Inside `transaction.atomic`, `insert_and_wait` raises and inserts nothing; outside it waits."""
    second = timedelta(seconds=0.01)
    with (
        transaction.atomic(using=ALIAS),
        pytest.raises(ConfigError, match=r"must be outside of a transaction"),
    ):
        client.insert_and_wait(Act("a"), timeout=second)
    with pytest.raises(WaitTimeout):
        client.insert_and_wait(Act("b"), timeout=second)

    assert observer.names() == ["b"]


def test_timeout_inside_a_django_transaction_names_it(client: SyncClient) -> None:
    """A wait for a job that the open `transaction.atomic` inserted ends by its timeout, which names the transaction."""
    second = timedelta(seconds=0.01)
    with transaction.atomic(using=ALIAS):
        id = client.insert(Act("a")).job.id
        with pytest.raises(WaitTimeout) as late:
            client.jobs.wait(id, timeout=second)
        client.jobs.cancel(id)
        row = client.jobs.wait(id, timeout=second)

    assert str(late.value) == (
        f"job {id} must end within 0.01 s, got no end; your transaction is open, and no worker sees what it inserts, so "
        f"commit and then look again with client.jobs.wait({id}, timeout=…)"
    )
    assert row.state == "cancelled"


def test_database_error_that_the_caller_catches_runs_no_on_commit(
    client: SyncClient, observer: Observer
) -> None:
    """PostgreSQL then rolls the block back, so Django does; an inner block limits that, as after errors of Django's."""
    called: list[str] = []
    unique = InsertOpts(unique=UniqueOpts(by_args=True))
    first = client.insert(Act("taken"), unique).job
    client.jobs.cancel(first.id)
    client.insert(Act("taken"), unique)
    with transaction.atomic(using=ALIAS):
        client.insert(Act("gone"))
        transaction.on_commit(lambda: called.append("gone"), using=ALIAS)
        with contextlib.suppress(UniqueConflict):
            client.jobs.retry(first.id)
    with transaction.atomic(using=ALIAS):
        client.insert(Act("kept"))
        transaction.on_commit(lambda: called.append("kept"), using=ALIAS)
        with contextlib.suppress(UniqueConflict), transaction.atomic(using=ALIAS):
            client.jobs.retry(first.id)
        client.insert(Act("kept too"))

    assert (called, observer.names()) == (["kept"], ["taken", "taken", "kept", "kept too"])
