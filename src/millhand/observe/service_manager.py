"""
Report the state of this process to systemd, as `Type=notify` and `WatchdogSec=` want it.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """
    A service manager that listens at `address`; `watchdog_seconds` is how long it waits for a message of this process.

    A message that cannot be sent is lost: a service manager that is away must not stop a worker.
    """

    def __init__(self, address: str, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def notify(self, *assignments: str) -> bool:
        """Send assignments such as `READY=1`; return whether they were sent. Never waits."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)
            try:
                sender.sendto("\n".join(assignments).encode(), self._address)
            except OSError:
                return False
        return True


def service_manager(environment: MutableMapping[str, str] | None = None) -> ServiceManager | None:
    """
    Return the service manager that started this process, or None.

    Its variables are removed, because the programs that jobs start are not the service.
    """
    environment = os.environ if environment is None else environment
    address = environment.pop(SOCKET_VARIABLE, "")
    usec, pid = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
    if not address.startswith(("/", "@")):
        return None
    is_watched = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
    return ServiceManager(address, int(usec) / 1e6 if is_watched else None)
