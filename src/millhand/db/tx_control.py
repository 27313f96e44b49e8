"""What the controls of a database share: each method runs alone, or as part of a transaction of its caller."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from millhand.db.driver.protocol import Driver, Executor

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx


class TxControl:
    """Runs statements on the pool, or on the connection `tx` of a caller."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def _executor(self, tx: AnyTx | None) -> Executor:
        return self._driver.pool if tx is None else self._driver.executor(tx)

    def _begin(self, tx: AnyTx | None) -> AbstractAsyncContextManager[Executor]:
        """Return a transaction of its own, or that of the caller."""
        executor = self._executor(tx)
        return executor.begin() if tx is None else nullcontext(executor)
