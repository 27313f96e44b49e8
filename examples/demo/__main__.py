"""
A worker with sample jobs, until Ctrl-C: `./just demo`. With `--web`, another one and the web page: see `page.py`.

Within seconds it logs a heartbeat, a job that fails twice and succeeds, a job that is discarded, and an orphan cleanup
that reports what it found and then deletes it. All data is in a temporary directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from examples.demo import page
from examples.demo.jobs import MakeThumbnail, PayInvoice

from millhand import Client, Migrator
from millhand.cli.main import run
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import lines
from millhand.embedded import project_postgres

UPLOADS = """
CREATE TABLE uploads (
    id bigserial PRIMARY KEY,
    object_key text NOT NULL UNIQUE,
    state text NOT NULL DEFAULT 'ready',
    created_at timestamptz NOT NULL DEFAULT now() - interval '2 days'
);
INSERT INTO uploads (object_key, state) VALUES
    ('cat.jpg', 'ready'), ('dog.jpg', 'ready'), ('half.jpg', 'pending'), ('gone.jpg', 'ready');
"""
FILES = ("cat.jpg", "dog.jpg", "half.jpg", "stray.jpg")
FILES_AND_JOBS = """\
media/  cat.jpg    has a row: stays
        dog.jpg    has a row: stays
        half.jpg   an upload that never finished: file and row are deleted
        stray.jpg  no row references it: deleted
        gone.jpg   a row whose file is missing: reported
jobs    one fails twice, one always fails, and an email is sent every five seconds
"""


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="millhand-demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # root's PostgreSQL runs as another user
        is_web = arguments[:1] == ["--web"]
        settings = Path(__file__).with_name("shop.toml" if is_web else "millhand.toml")
        shutil.copy(settings, directory / "millhand.toml")
        os.chdir(directory)
        os.environ.pop("DATABASE_URL", None)
        Path("media").mkdir()
        for file in FILES:
            Path("media", file).write_text(f"the picture {file}\n")
        with project_postgres(directory) as server:
            if is_web:
                asyncio.run(fill(server.url, page.fill))
                return page.serve(directory, arguments[1:])
            asyncio.run(fill(server.url, fill_uploads))
            print(f"{FILES_AND_JOBS}\nin {directory}, until Ctrl-C\n", flush=True)
            return run(["worker", "--embedded", "examples.demo.jobs:config"])


async def fill(url: str, insert: Callable[[AsyncpgDriver, Client], Awaitable[None]]) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(driver.close)
        for line in lines():
            await Migrator(driver, line).up()
        await insert(driver, await stack.enter_async_context(Client(driver)))


async def fill_uploads(driver: AsyncpgDriver, client: Client) -> None:
    await driver.pool.execute_script(UPLOADS)
    await client.insert_many([MakeThumbnail("cat.jpg"), PayInvoice(7)])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
