"""Claims about `millhand probe`; tests/acceptance/test_worker_health.py asks real workers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_runner import Result, millhand
from millhand.observe.http_server import Address, HttpServer, plain

ROUTES = {
    "/livez": lambda: plain(503, "event loop hangs for 130.0 s at shop/jobs.py:21 send"),
    "/readyz": lambda: plain(200, "ok"),
    "/startupz": lambda: plain(503, "starting"),
}


@pytest.fixture
def server(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    """The probes of a worker, named by the environment."""
    server = HttpServer(Address("", 0), ROUTES)
    monkeypatch.setenv("MILLHAND_OBSERVE_LISTEN", server.address.text)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("live", Result(1, "event loop hangs for 130.0 s at shop/jobs.py:21 send\n", "")),
        ("ready", Result(0, "ok\n", "")),
        ("startup", Result(1, "starting\n", "")),
    ],
)
@pytest.mark.usefixtures("server")
async def test_probe_prints_the_answer(name: str, result: Result) -> None:
    """The answer is printed, and the exit code is 0 only if it is the good one."""
    assert await millhand("probe", name) == result


async def test_probe_reads_the_address_of_the_file(
    server: HttpServer, empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable, the address is that of millhand.toml."""
    monkeypatch.delenv("MILLHAND_OBSERVE_LISTEN")
    (empty_directory / "millhand.toml").write_text(f'[observe]\nlisten = "127.0.0.1:{server.address.port}"\n')

    assert await millhand("probe", "ready") == Result(0, "ok\n", "")


async def test_probe_without_a_worker_names_the_setting(
    server: HttpServer, empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing listens, the error names address and setting; without an address or with a wrong one it is wrong use."""
    server.close()

    refused = await millhand("probe", "live")
    monkeypatch.setenv("MILLHAND_OBSERVE_LISTEN", "9464")
    wrong = await millhand("probe", "live")
    monkeypatch.delenv("MILLHAND_OBSERVE_LISTEN")
    unset = await millhand("probe", "live")

    assert refused == Result(
        1,
        "",
        f"error: a worker must answer at '{server.address.text}', got: Connection refused; check that it runs, and with "
        "the same listen in [observe], or MILLHAND_OBSERVE_LISTEN\n",
    )
    assert (wrong.code, wrong.err.partition(" must ")[0]) == (2, "error: MILLHAND_OBSERVE_LISTEN: listen")
    assert unset.code == 2
    assert unset.err == (
        "error: listen in [observe] must be the address of the worker's probes, got none; "
        'write listen = ":9464", or set MILLHAND_OBSERVE_LISTEN, for the worker too\n'
    )


async def test_probe_refuses_another_program(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is no HTTP is an error, not a verdict."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("MILLHAND_OBSERVE_LISTEN", f"127.0.0.1:{other.getsockname()[1]}")
        other.settimeout(30.0)

        async def answer() -> None:
            connection, _ = await asyncio.to_thread(other.accept)
            with connection:
                await asyncio.to_thread(connection.recv, 4096)
                connection.sendall(b"SSH-2.0-x\r\n")

        result, _ = await asyncio.gather(millhand("probe", "live"), answer())

    assert (result.code, "another program answers there" in result.err) == (1, True)
