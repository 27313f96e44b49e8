"""Compares the connections that a worker may open with those that the server has."""

from __future__ import annotations

import contextlib
import os

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Driver
from millhand.doctor.store import doctor_get_server

logger = logger_of(__name__)

# How many processes the supervisor runs. Only the first of them gets the number and compares; the others get 0.
PROCESSES_VARIABLE = "MILLHAND_NUM_PROCESSES"


def take_num_processes() -> int:
    """Return for how many processes this one compares: all of its supervisor, none, or itself."""
    text = os.environ.pop(PROCESSES_VARIABLE, "")  # child processes of jobs are not supervised
    return int(text) if text.isdecimal() else 1


async def warn_of_connections(driver: Driver, num_processes: int) -> None:
    """
    Log that `num_processes` workers may open more connections than the server has for all.

    Each has a pool as large as the driver's and a listener. What other programs open is not known.
    """
    pool_size = driver.pool_size
    if pool_size is None or not num_processes:
        return
    with contextlib.suppress(DriverError, OperationTimeout):  # no reason to end a start
        server = await driver.pool.run(doctor_get_server())
        num_connections = num_processes * (pool_size + 1)
        if num_connections <= server.connections_max:
            return
        fields = {
            "num_processes": num_processes,
            "pool_size": pool_size,
            "num_connections": num_connections,
            "connections_max": server.connections_max,
            "remedy": _remedy(num_processes, server.connections_max),
        }
        logger.warning("connections may run out", extra=fields)


def _remedy(num_processes: int, connections_max: int) -> str:
    pool_size = connections_max // num_processes - 1
    lower = f"set pool_size = {pool_size} in [database]" if pool_size >= 1 else "run fewer processes"
    return f"{lower}, or raise max_connections of the server"
