"""Warnings after `millhand job insert`: a kind or queue that no registered client works, and that resembles one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from millhand.client_row import ClientRow
from millhand.driver.protocol import Driver
from millhand.errors import MillhandError
from millhand.near_match import near_match
from millhand.store.client import client_list


async def insert_warnings(kind: str, queue: str | None, driver: Driver) -> list[str]:
    """Return the warnings about the job of a command, whose `queue` may be unset; none if the clients cannot be read."""
    try:
        clients = await driver.pool.run(client_list())
    except MillhandError:  # such as a database without the line `millhand`; the job is inserted
        return []
    return list(_warnings(kind, queue, clients))


def _warnings(kind: str, queue: str | None, clients: Sequence[ClientRow]) -> Iterator[str]:
    """
    Yield a warning for the kind and for the queue.

    A client in another language, or one that is down for longer, may work a name that no row has. Only a near match is
    therefore a sign of a typing error.
    """
    worked = {
        "kind": (kind, {kind for row in clients for kind in row.kinds}),
        "queue": (queue, {"default", *(queue for row in clients for queue in row.queues)}),
    }
    for what, (name, known) in worked.items():
        if name is not None and name not in known and (near := near_match(name, known)) is not None:
            yield f"no registered client of the last day works {what} {name!r}; did you mean {near!r}?"
