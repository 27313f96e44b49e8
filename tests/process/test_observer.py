"""Claims about what a worker process reports to systemd and in its file."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from millhand.core.errors import ConfigError
from millhand.observe.health import WorkerState
from millhand.observe.http_server import Address
from millhand.observe.service_manager import ServiceManager, service_manager
from millhand.process.observer import ObserveSettings, Reporter, observe_settings
from millhand.shells.settings.load import Settings, load_settings

EXTEND = "EXTEND_TIMEOUT_USEC=30000000"


class Systemd:
    """A datagram socket in place of systemd's."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0)

    def received(self) -> list[list[str]]:
        """Return the messages that have arrived."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Systemd]:
    name = f"@millhand-test-{os.getpid()}"
    systemd = Systemd(str(tmp_path / "notify") if request.param == "path" else name)
    yield systemd
    systemd.close()


def observed(manager: ServiceManager | None = None, file: Path | None = None) -> ObserveSettings:
    return ObserveSettings(address=None, file=file, live_seconds=120.0, manager=manager)


def test_systemd_learns_of_each_change_once(systemd: Systemd) -> None:
    """It gets each state and status once, and more time while the worker starts or stops."""
    reporter = Reporter(observed(ServiceManager(systemd.address)))

    reporter.turn(WorkerState.STARTING, is_live=True, status="starting")
    reporter.turn(WorkerState.WORKING, is_live=True, status="working")
    reporter.turn(WorkerState.WORKING, is_live=True, status="working")
    reporter.turn(WorkerState.STOPPING, is_live=True, status="stopping")
    reporter.turn(WorkerState.STOPPING, is_live=True, status="stopping")
    reporter.turn(WorkerState.STOPPING, is_live=False, status="stopping")

    assert systemd.received() == [
        ["STATUS=starting", EXTEND],
        ["READY=1", "STATUS=working"],
        ["STOPPING=1", "STATUS=stopping", EXTEND],
        [EXTEND],
    ]


def test_watchdog_is_notified_only_while_live(systemd: Systemd) -> None:
    """The watchdog is notified at half of its time, and not by a process that hangs."""
    reporter = Reporter(observed(ServiceManager(systemd.address, watchdog_seconds=60.0)))

    for is_live in (False, True, True):
        reporter.turn(WorkerState.WORKING, is_live=is_live, status="")

    assert systemd.received() == [["READY=1"], ["WATCHDOG=1"]]


def test_missing_systemd_is_no_error(tmp_path: Path) -> None:
    """A message to a socket that nobody has is lost without an error."""
    assert not ServiceManager(str(tmp_path / "nothing")).notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_for_this_process(environment: dict[str, str], seconds: float | None) -> None:
    """The time of the watchdog counts if it is a number, and for this process or for any; the variables are removed."""
    variables = {"NOTIFY_SOCKET": "/run/notify", **environment}

    manager = service_manager(variables)

    assert manager is not None
    assert (manager.watchdog_seconds, variables) == (seconds, {})


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_process_without_systemd_has_no_manager(address: dict[str, str]) -> None:
    """Without a socket that this process can reach nothing is reported."""
    assert service_manager(dict(address)) is None


def test_file_is_touched_while_live(tmp_path: Path) -> None:
    """The file is made by the first turn that is live, and left alone by the turns soon after."""
    file = tmp_path / "live"
    reporter = Reporter(observed(file=file))

    reporter.turn(WorkerState.WORKING, is_live=False, status="")
    was_there = file.exists()
    reporter.turn(WorkerState.WORKING, is_live=True, status="")
    file.unlink()
    reporter.turn(WorkerState.WORKING, is_live=True, status="")

    assert (was_there, file.exists()) == (False, False)


def test_file_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file in a directory that does not exist is a warning, and the worker goes on."""
    reporter = Reporter(observed(file=tmp_path / "missing" / "live"))

    with caplog.at_level(logging.WARNING, "millhand"):
        reporter.turn(WorkerState.WORKING, is_live=True, status="")

    assert [(record.msg, vars(record)["error"]) for record in caplog.records] == [
        ("health file not written", "No such file or directory")
    ]


def settings(directory: Path, **variables: str) -> Settings:
    return load_settings(
        directory=directory,
        environment={f"MILLHAND_OBSERVE_{name.upper()}": text for name, text in variables.items()},
    )


def test_settings_say_what_is_observed(tmp_path: Path) -> None:
    """Each setting of `[observe]` has its part; a supervised process leaves the address and file to its supervisor."""
    given = settings(tmp_path, listen=":9464", file="live", live_after="30s")

    assert observe_settings(given) == ObserveSettings(
        address=Address("", 9464), file=Path("live"), live_seconds=30.0, manager=None
    )
    assert observe_settings(given, is_supervised=True) == ObserveSettings(
        address=None, file=None, live_seconds=30.0, manager=None
    )
    assert observe_settings(settings(tmp_path)).live_seconds == timedelta(minutes=2).total_seconds()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"listen": "9464"}, "LISTEN: listen must be like ':9464', '127.0.0.1:9464' or '[::1]:9464', got '9464'"),
        ({"live_after": "0s"}, "LIVE_AFTER: live_after must be at least 1s, got 0s"),
    ],
)  # fmt: skip
def test_wrong_setting_is_an_error(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    """An error of `[observe]` names where the value comes from."""
    with pytest.raises(ConfigError) as raised:
        observe_settings(settings(tmp_path, **variables))

    assert str(raised.value) == f"MILLHAND_OBSERVE_{message}"
