"""A driver that only one event loop may use."""

from __future__ import annotations

from collections.abc import Callable

from millhand.db.driver.protocol import Driver, Executor, Listener


class OwnLoopDriver:
    """Wraps a driver, whose pool may be used where `require_own_loop` does not raise; a caller's transaction anywhere."""

    def __init__(self, driver: Driver, require_own_loop: Callable[[], None]) -> None:
        self._driver = driver
        self._require_own_loop = require_own_loop
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema

    @property
    def pool(self) -> Executor:
        self._require_own_loop()
        return self._driver.pool

    def executor(self, tx: object) -> Executor:
        return self._driver.executor(tx)

    def listener(self) -> Listener:
        return self._driver.listener()

    async def open(self) -> None:
        await self._driver.open()

    async def close(self) -> None:
        await self._driver.close()
