"""The app inside projects of Django's: each file of `django_cases` in a process of its own, by Django's own runner."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millhand.schema.migrator import lines, migrations
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
    """A database beside which Django makes its own for the tests."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        yield url


def test_migrations_lead_to_the_newest_versions() -> None:
    """Django's migrations of the app lead to the newest version of each line: who adds a version adds one of these."""
    reached: dict[str, int] = {}
    for file in sorted(MIGRATIONS.glob("0*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "lead_to":
                reached |= ast.literal_eval(call.args[0])

    assert reached == {line: max(one.version for one in migrations(line)) for line in lines()}


@pytest.mark.slow
@pytest.mark.parametrize("python", ["own", "django6"])
async def test_app_keeps_its_promises_in_a_project(python: str, url: str) -> None:
    """Every case passes, with the package django-tasks and, where it is installed, with Django 6 and its own tasks."""
    program = sys.executable if python == "own" else os.environ.get(DJANGO_6)
    if program is None:
        missing("django6", f"{DJANGO_6} must name a Python with Django 6, psycopg and this checkout")
    paths = os.pathsep.join(map(str, (HERE, SHOP, PROJECT / "src")))
    process = await asyncio.create_subprocess_exec(
        program,
        *("-W", "error", "-m", "django", "test", "--noinput", "--pattern", "*_case.py", "django_cases"),
        cwd=HERE,
        env=environment(DATABASE_URL=url, DJANGO_SETTINGS_MODULE="django_cases.settings", PYTHONPATH=paths),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            told = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, told
    assert "Ran 0 tests" not in told
