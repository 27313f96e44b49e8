"""Requests of one URL after another, by one caller or by several at a time, and how long each took."""

from __future__ import annotations

import concurrent.futures
import http.client
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import msgspec

TIMEOUT_SECONDS = 60.0
OK = 200


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """The times of some requests in milliseconds, and the bytes of one answer as it was sent."""

    milliseconds: tuple[float, ...]
    num_bytes: int

    @property
    def p50(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.milliseconds, n=20)[-1]


def measure(address: str, path: str, *, requests: int, callers: int) -> Latencies:
    """
    Send `requests` in all, as a browser does: compressed, on a connection for each caller that stays open.

    Raises: RuntimeError for an answer that is not 200.
    """
    turns = itertools.repeat(None, requests)
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        found = [pool.submit(_call, address, path, turns) for _ in range(callers)]
        pairs = [pair for future in found for pair in future.result()]
    return Latencies(milliseconds=tuple(ms for ms, _ in pairs), num_bytes=pairs[-1][1])


def _call(address: str, path: str, turns: Iterator[None]) -> Sequence[tuple[float, int]]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT_SECONDS)
    found = []
    for _ in turns:
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        size = len(response.read())
        found.append(((time.perf_counter() - began) * 1000, size))
        if response.status != OK:
            raise RuntimeError(f"{path} must be answered with 200, got {response.status}")
    connection.close()
    return found
