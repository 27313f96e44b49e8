"""Claims about database URLs and the drivers that they name."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from millhand import Client, Config, ConfigError, SyncClient, Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.detect import driver_at, driver_of, sync_driver_of
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from millhand.db.driver.url import checked_url
from user_programs import run_python

SCHEMES = {
    "postgresql": AsyncpgDriver,
    "postgres": AsyncpgDriver,
    "postgresql+asyncpg": AsyncpgDriver,
    "postgresql+psycopg": PsycopgDriver,
}
WORKER = """
import sys
from dataclasses import dataclass
from typing import ClassVar
from millhand import Config, Job, Workers

workers = Workers()

@dataclass
class Look:
    kind: ClassVar[str] = "look"

@workers.add()
async def look(job: Job[Look]) -> None:
    job.record_output([name for name in ("asyncpg", "psycopg") if name in sys.modules])

config = Config(queues={"default": 2}, workers=workers)
"""


@dataclass(frozen=True)
class Look:
    kind: ClassVar[str] = "look"


def by_scheme(url: str, scheme: str) -> str:
    return url.replace("postgresql", scheme, 1)


@pytest.mark.parametrize("port", ["x", "5432,x"])
@pytest.mark.parametrize("kind", [AsyncpgDriver, PsycopgDriver, PsycopgSyncDriver])
async def test_invalid_pgport_is_an_error(
    kind: type[AsyncpgDriver | PsycopgDriver | PsycopgSyncDriver], port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names an invalid PGPORT, not the URL or its host."""
    monkeypatch.setenv("PGPORT", port)

    with pytest.raises(ConfigError) as refused:
        await kind("postgresql://u:secret@localhost/d").open()

    assert str(refused.value) == f"PGPORT must be a port number, got {port!r}; correct or unset it"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_url_names_the_driver(postgres_url: str, schema: str, scheme: str) -> None:
    """Client and SyncClient accept every scheme, and a Client uses the driver that it names."""
    url = by_scheme(postgres_url, scheme)
    config = Config(schema=schema)

    async with Client(url, config) as client:
        first = await client.insert(Look())
    with SyncClient(url, config) as sync_client:
        rows = sync_client.jobs.list().jobs

    assert (type(driver_of(url, schema)), type(sync_driver_of(url, schema))) == (
        SCHEMES[scheme],
        PsycopgSyncDriver,
    )
    assert rows == (first.job,)


def test_rest_of_a_url_is_kept() -> None:
    """Only the scheme changes, and the parameter that has another name in a URL of asyncpg."""
    rest = "://ann:pa%40ss@db:6432/shop?sslmode=require&application_name=x"

    assert [checked_url(f"{scheme}{rest}") for scheme in SCHEMES] == [
        f"postgresql{rest}", f"postgres{rest}", f"postgresql{rest}", f"postgresql{rest}",
    ]  # fmt: skip
    assert checked_url("postgresql+asyncpg://db/shop?a=b&ssl=require") == (
        "postgresql://db/shop?a=b&sslmode=require"
    )


@pytest.mark.parametrize("scheme", ["postgresql+psycopg2", "postgresql+pg8000", "mysql+asyncpg"])
def test_url_of_an_unknown_driver_is_an_error(scheme: str) -> None:
    """An unknown driver is an error that lists the known ones, without the password."""
    message = (
        "database URL must begin with 'postgresql://', 'postgresql+psycopg://' or 'postgresql+asyncpg://', "
        f"got scheme {scheme!r}"
    )

    for make in (driver_at, Client, SyncClient):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            make(f"{scheme}://ann:secret@db/shop")


@pytest.mark.slow
def test_missing_driver_package_is_an_error() -> None:
    """Without the extra, the error of a client that needs it has the command to install it."""
    made = {
        "Client('postgresql+psycopg://ann:secret@db/shop')": "postgresql+psycopg",
        "SyncClient('postgresql://ann:secret@db/shop')": "postgresql",
    }
    program = (
        "import sys; sys.modules['psycopg'] = None; from millhand import Client, ConfigError, SyncClient\n"
    )
    program += "".join(f"try: {one}\nexcept ConfigError as error: print(error)\n" for one in made)

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert ended.stdout.splitlines() == [
        f"a database by '{scheme}://' needs psycopg here, got no module named 'psycopg'; "
        "write: pip install 'millhand[psycopg]'"
        for scheme in made.values()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "driver"), [("postgresql+psycopg", "psycopg"), ("postgresql", "asyncpg")])
async def test_worker_process_uses_the_driver_that_its_url_names(
    tmp_path: Path, postgres_url: str, schema: str, scheme: str, driver: str
) -> None:
    """`millhand worker` with a psycopg URL does not import asyncpg, and the other way round."""
    (tmp_path / "program.py").write_text(WORKER)
    (tmp_path / "millhand.toml").write_text(f'[database]\nschema = "{schema}"\n')
    with SyncClient(postgres_url, Config(schema=schema)) as client:
        job = client.insert(Look()).job

        ended = await run_python(
            ["-m", "millhand", "worker", "program:config", "--until-empty"],
            database_url=by_scheme(postgres_url, scheme),
            directory=tmp_path,
        )

        worked = client.jobs.get(job.id)
    assert (ended.code, worked.state, worked.output) == (0, "completed", [driver]), ended.stderr


@pytest.mark.slow
async def test_client_on_a_url_of_psycopg_s_works(postgres_url: str, schema: str) -> None:
    """A client works jobs with the URL of a SQLAlchemy application."""
    workers = Workers()

    @workers.add()
    async def look(job: Job[Look]) -> None:
        job.record_output(type(job.client._driver).__name__)

    config = Config(schema=schema, workers=workers, queues={"default": 1})
    async with Client(by_scheme(postgres_url, "postgresql+psycopg"), config) as client:
        events = client.subscribe()
        await client.insert(Look())
        event = await anext(aiter(events))

    assert event.job is not None
    assert event.job.output == "PsycopgDriver"
