"""Named barriers, at which workers and a fetch wait."""

from __future__ import annotations

import asyncio

from river_conformance.protocol import ErrorCode, RpcError


class Barriers:
    """
    Barriers by name. A released one lets everybody pass until it is created again.

    Concurrency: belongs to one event loop.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, asyncio.Event] = {}
        self.ended = asyncio.Event()

    def create(self, name: str) -> None:
        """Create a barrier. Raises: RpcError for one that is not released yet."""
        if self.is_current(name):
            raise RpcError(
                ErrorCode.REJECTED, f"barrier {name!r} must be released before it is created again"
            )
        self._by_name[name] = asyncio.Event()

    def release(self, name: str) -> None:
        """Release a barrier; idempotent. Raises: RpcError for an unknown one."""
        self._get(name).set()

    def is_current(self, name: str) -> bool:
        """Return whether a barrier is created and not released."""
        return name in self._by_name and not self._by_name[name].is_set()

    async def wait(self, name: str) -> None:
        """Wait until a barrier is released. Raises: RpcError for an unknown one."""
        await self._get(name).wait()

    def _get(self, name: str) -> asyncio.Event:
        if name not in self._by_name:
            raise RpcError(ErrorCode.NOT_FOUND, f"barrier must be one of barrier_create, got {name!r}")
        return self._by_name[name]
