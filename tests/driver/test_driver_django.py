from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import django
import django.db
import psycopg
import pytest
from django.conf import settings
from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.conninfo import conninfo_to_dict

from millhand import Config, ConfigError, ConnectionLost, DriverError, InsertOpts, SyncClient, UniqueOpts

ALIAS = "driver"


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    name: str


@pytest.fixture(params=["connection", "pool of Django's"])
def connection(
    request: pytest.FixtureRequest, postgres_url: str, schema: str
) -> Iterator[BaseDatabaseWrapper]:
    """One of Django's databases, of any alias."""
    if "pool" in request.param and django.VERSION < (5, 1):
        pytest.skip("Django has pools since 5.1")
    if not settings.configured:  # by another room's tests
        settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    where = conninfo_to_dict(postgres_url)
    names = {"NAME": "dbname", "HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    said = {name: where.get(key, "") for name, key in names.items()}
    options = {"pool": {"min_size": 1, "max_size": 4}} if "pool" in request.param else {}
    engine = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options}
    connections.settings[ALIAS] = connections.configure_settings({"default": {**said, **engine}})["default"]
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
def outside(postgres_url: str, schema: str) -> Iterator[Outside]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield Outside(connection, schema)


class Outside:
    """Somebody who sees what was committed, and hears what was told."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection = connection
        self._heard: list[str] = []
        self._schema = schema
        connection.add_notify_handler(lambda said: self._heard.append(json.loads(said.payload)["queue"]))
        connection.execute(f'LISTEN "{schema}.river_insert"')

    def names(self) -> list[str]:
        rows = self._connection.execute(f"SELECT args->>'name' FROM {self._schema}.river_job ORDER BY id")
        return [name for (name,) in rows]

    def heard(self) -> list[str]:
        """Return the queues that were announced until now."""
        end = json.dumps({"queue": "end"})
        self._connection.execute("SELECT pg_notify(%s, %s)", [f"{self._schema}.river_insert", end])
        for _ in range(1000):
            if "end" in self._heard:
                break
            self._connection.execute("SELECT 1")
        return self._heard[:-1]


def queue(name: str) -> InsertOpts:
    return InsertOpts(queue=name)


def test_job_is_part_of_the_atomic_block(client: SyncClient, outside: Outside) -> None:
    """Committed with the block, gone with what it raises, NOTIFY included; without a block, there at once."""
    client.insert(Act("alone"), queue("alone"))
    at_once = outside.names()
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert(Act("gone"), queue("gone"))
        raise ZeroDivisionError
    with transaction.atomic(using=ALIAS):
        client.insert_many([(Act("kept"), queue("kept"))])
        before = outside.names()

    assert (at_once, before) == (["alone"], ["alone"])
    assert outside.names() == ["alone", "kept"]
    assert outside.heard() == ["alone", "kept"]


def test_nested_blocks_are_savepoints(
    client: SyncClient, connection: BaseDatabaseWrapper, outside: Outside
) -> None:
    """An inner block that is undone takes its jobs with it, and leaves those before it; so does a COPY that fails."""
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

    assert outside.names() == ["first", "fifth"]


def test_block_that_is_rolled_back_by_hand_takes_the_job(client: SyncClient, outside: Outside) -> None:
    """Set to be rolled back, a block says no more, as for Django's own statements, and leaves nothing."""
    with transaction.atomic(using=ALIAS):
        client.insert(Act("gone"))
        transaction.set_rollback(True, using=ALIAS)
        with pytest.raises(transaction.TransactionManagementError):
            client.insert(Act("never"))

    assert (outside.names(), outside.heard()) == ([], [])


def test_django_s_own_commit_is_ours(
    client: SyncClient, connection: BaseDatabaseWrapper, outside: Outside
) -> None:
    """Without autocommit a job is there when the caller commits."""
    transaction.set_autocommit(False, using=ALIAS)
    client.insert(Act("gone"))
    transaction.rollback(using=ALIAS)
    client.insert(Act("kept"))
    before = outside.names()
    transaction.commit(using=ALIAS)
    transaction.set_autocommit(True, using=ALIAS)

    assert (before, outside.names()) == ([], ["kept"])


def test_cursor_of_django_s_goes_on(
    client: SyncClient, connection: BaseDatabaseWrapper, outside: Outside
) -> None:
    """What a block reads by `iterator()`, on the server, is not lost by the jobs that are inserted meanwhile."""
    with transaction.atomic(using=ALIAS), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 1000)")
        read = [cursor.fetchone(), cursor.fetchone()]
        client.insert(Act("one"))
        client.insert_many_fast([Act("two"), Act("three")])
        read += [cursor.fetchone()]

    assert (read, outside.names()) == ([(1,), (2,), (3,)], ["one", "two", "three"])


def test_connection_of_django_s_is_a_tx(
    connection: BaseDatabaseWrapper, outside: Outside, postgres_url: str, schema: str
) -> None:
    """A client on anything takes Django's connection as tx, and as its database."""
    client = SyncClient(postgres_url, Config(schema=schema))
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=ALIAS):
        client.insert(Act("gone"), tx=connection)
        raise ZeroDivisionError
    with transaction.atomic(using=ALIAS):
        job = client.insert(Act("kept"), tx=connection).job
        SyncClient(connection, Config(schema=schema)).jobs.cancel(job.id)
        before = outside.names()

    assert (before, outside.names()) == ([], ["kept"])


def test_each_thread_has_its_connection(client: SyncClient, outside: Outside) -> None:
    """In another thread it is that thread's connection, outside of this one's block."""

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

    assert outside.names() == ["other"]


def test_errors_are_ours_and_django_s_go_on(
    client: SyncClient, connection: BaseDatabaseWrapper, outside: Outside, schema: str
) -> None:
    """What the database refuses is a DriverError, what Django raises is its own, and the next block works."""

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
    assert outside.names() == ["kept"]


def test_lost_connection_is_replaced_by_django(
    client: SyncClient, connection: BaseDatabaseWrapper, outside: Outside
) -> None:
    """A connection that the server ended is an error once; Django notices it at the end of the request."""
    with contextlib.suppress(django.db.Error), connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    connection.errors_occurred = False
    with pytest.raises(ConnectionLost):
        client.insert(Act("lost"))
    connection.close_if_unusable_or_obsolete()
    client.insert(Act("kept"))

    assert outside.names() == ["kept"]


def test_migration_is_django_s_too(client: SyncClient, schema: str) -> None:
    """A schema that is migrated stays so, and a start that looks at it is well."""
    with client:
        assert client.migrate() == ()


def test_using_is_one_name_alone(connection: BaseDatabaseWrapper) -> None:
    """Two databases for one client are an error."""
    with pytest.raises(ConfigError) as refused:
        SyncClient("postgresql://x@/x", using=ALIAS)

    assert str(refused.value) == "using must be all that names a database, got 'driver' and a builtins.str"
