"""Ports for servers that cannot be told to take any and say which."""

from __future__ import annotations

import random
import socket

# Below those that Linux gives to whoever connects: nobody takes one by chance before its server does.
PORTS = range(10_000, 22_000)
_CHANCE = random.SystemRandom()  # not the one that is seeded alike in each process of a run


def free_ports(count: int, *, neighbour: int = 0) -> list[int]:
    """
    Return free ports; with `neighbour`, the port that far above each, which SeaweedFS takes for gRPC, is free too.

    None of them is another's neighbour.
    """
    ports: list[int] = []
    taken: set[int] = set()
    while len(ports) < count:
        port = _CHANCE.choice(PORTS)
        both = {port, port + neighbour}
        if not both & taken and all(map(_is_free, both)):
            ports.append(port)
            taken |= both
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
