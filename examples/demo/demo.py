"""
A worker with something to look at: jobs that fail and are tried again, and uploads that no longer agree with their rows.

`./just demo` runs it, in a directory that is thrown away. Watch the retries come in growing gaps, and the orphan
cleanup find one object that no row names; then press Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import asyncpg

from millhand import Config, Job, Workers, every
from millhand.embedded import embedded_postgres

SETTINGS = """
[storage]
url = "bucket"

[heartbeat]
interval = "10s"

[orphans]
mode = "report"
interval = "20s"

[[orphans.sources]]
name = "uploads"
table = "uploads"
created_at = "created_at"
"""
TABLE = """
CREATE TABLE uploads (id bigserial PRIMARY KEY, key text NOT NULL, created_at timestamptz NOT NULL);
INSERT INTO uploads (key, created_at) VALUES ('invoice.pdf', now() - interval '2 days'),
    ('photo.jpg', now() - interval '2 days'), ('lost.txt', now() - interval '2 days');
"""
# `forgotten.bin` is an orphan, for no row names it; `lost.txt` is missing, for a row names it and it is not there.
OBJECTS = ("forgotten.bin", "invoice.pdf", "photo.jpg")
TWO_DAYS_SECONDS = 2 * 86_400


@dataclass(frozen=True)
class SendMail:
    kind: ClassVar[str] = "send_mail"
    to: str = "a@example.com"


workers = Workers()


@workers.add()
async def send_mail(job: Job[SendMail]) -> None:
    """Send a mail through a server that is out of order until the third attempt."""
    if job.attempt % 3:
        raise ConnectionError(f"mail server is busy, mail to {job.args.to} was not sent")


config = Config(
    periodic_jobs=[every(timedelta(seconds=30), SendMail(), run_on_start=True)],
    workers=workers,
)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="millhand-demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        prepare(directory)
        environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        command = [sys.executable, "-m", "millhand", "worker", "demo:config"]
        with embedded_postgres(directory / ".millhand" / "postgres") as server:
            asyncio.run(fill(server.url))
            with subprocess.Popen(
                command, cwd=directory, env=environment | {"PYTHONPATH": str(Path(__file__).parent)}
            ) as worker:
                while True:
                    try:
                        return worker.wait()
                    except KeyboardInterrupt:  # the worker got it as well, and is stopping
                        continue


def prepare(directory: Path) -> None:
    (directory / "millhand.toml").write_text(SETTINGS)
    (directory / "bucket").mkdir()
    then = time.time() - TWO_DAYS_SECONDS
    for key in OBJECTS:
        (directory / "bucket" / key).write_text(f"the content of {key}")
        os.utime(directory / "bucket" / key, (then, then))


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(TABLE)
    await connection.close()


if __name__ == "__main__":
    sys.exit(main())
