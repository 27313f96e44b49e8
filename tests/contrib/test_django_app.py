"""Run the tests of `django_cases` with Django's own runner, and check the migrations."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millhand.cli.probe import asked
from millhand.db.schema.migrator import lines, migrations
from millhand.observe.http_server import Address
from required import missing
from user_programs import PROJECT, environment, fresh_database

HERE = Path(__file__).parent
SHOP = PROJECT / "examples" / "django_shop"
MIGRATIONS = PROJECT / "src/millhand/contrib/django/migrations"
# The interpreter of an environment with Django 6, whose tasks need Python 3.12.
DJANGO_6 = "MILLHAND_TEST_DJANGO_6"
GENEROUS_SECONDS = 120.0


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    """Yield a database; Django creates its test database on the same server."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        yield url


def test_migrations_reach_the_newest_versions() -> None:
    """Django's migrations of the app reach the newest version of each line, so a new version needs a migration."""
    reached: dict[str, int] = {}
    for file in sorted(MIGRATIONS.glob("0*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "lead_to":
                reached |= ast.literal_eval(call.args[0])

    assert reached == {line: max(one.version for one in migrations(line)) for line in lines()}


@pytest.mark.slow
@pytest.mark.parametrize("python", ["own", "django6"])
async def test_django_cases_pass(python: str, url: str) -> None:
    """All cases pass with the package django-tasks and, if available, with Django 6 and its tasks."""
    program = sys.executable if python == "own" else os.environ.get(DJANGO_6)
    if program is None:
        missing("django6", f"{DJANGO_6} must name a Python with Django 6, psycopg and this checkout")
    paths = os.pathsep.join(map(str, (HERE, SHOP, PROJECT / "src")))
    process = await asyncio.create_subprocess_exec(
        program,
        *("-W", "error", "-m", "django", "test", "--noinput", "django_cases"),
        cwd=HERE,
        env=environment(DATABASE_URL=url, DJANGO_SETTINGS_MODULE="django_cases.settings", PYTHONPATH=paths),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, output
    assert "Ran 0 tests" not in output


@pytest.mark.slow
async def test_django_worker_answers_probes(url: str) -> None:
    """`manage.py millhand_worker` answers at the address in the environment; SIGTERM ends it with 0."""
    variables = environment(
        DATABASE_URL=url,
        DJANGO_SETTINGS_MODULE="django_cases.settings",
        MILLHAND_OBSERVE_LISTEN="127.0.0.1:0",
        PYTHONPATH=os.pathsep.join(map(str, (HERE, SHOP, PROJECT / "src"))),
    )

    async def django(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "django", *arguments),
            cwd=HERE,
            env=variables,
            stdout=asyncio.subprocess.PIPE,
        )

    migration = await django("migrate", "--verbosity", "0")
    assert (await migration.communicate(), migration.returncode) == ((b"", None), 0)
    worker = await django("millhand_worker", "--log-format", "json")
    assert worker.stdout is not None
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            lines = [json.loads(await worker.stdout.readline())]
            while lines[-1]["message"] != "worker started":
                lines.append(json.loads(await worker.stdout.readline()))
            port = int(lines[0]["address"].rpartition(":")[2])
            answer = await asyncio.to_thread(asked, Address("127.0.0.1", port), "/readyz")
            worker.terminate()
            await worker.communicate()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()

    assert (lines[0]["message"], answer, worker.returncode) == ("health listening", ("200", "ok"), 0)
