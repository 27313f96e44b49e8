"""Warnings about queues that a flag or a setting replaces, and about names that look like a typo."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from millhand.core.config import Config
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.near_match import near_match
from millhand.db.driver.protocol import Driver
from millhand.engine.store.queue import queue_list
from millhand.shells.settings.load import DEFAULT, Settings, load_settings

NUM_LISTED = 1_000

logger = logger_of(__name__)


class ReplacedQueues(msgspec.Struct, frozen=True, kw_only=True):
    """The queues that a worker would work without what replaces them; `is_chosen` unless they are the default of all."""

    is_chosen: bool
    names: frozenset[str]
    reason: str = "--queue replaces all queues"

    async def warn(self, worked: Collection[str], driver: Driver) -> None:
        """Log the queues that are not worked, and each worked one that nothing knows but a near match of it."""
        left_out = sorted(self.names - set(worked))
        if self.is_chosen and left_out:
            logger.warning("queues left out", extra={"left_out": ",".join(left_out), "reason": self.reason})
        if unknown := [name for name in worked if name not in self.names]:
            listed: set[str] = set()
            with contextlib.suppress(DriverError, OperationTimeout):  # the start of the client reports it
                listed = {queue.name for queue in await driver.pool.run(queue_list(limit=NUM_LISTED))}
            for name, near in typos(unknown, self.names - set(worked), listed):
                logger.warning("queue unknown", extra={"queue": name, "remedy": f"did you mean {near!r}?"})


def replaced_queues(config_path: Path | None, config: Config | None, target: str | None) -> ReplacedQueues:
    settings = load_settings(config_path)
    if config is not None and config.queues:
        settings = settings.with_config(config, target or "")
    return ReplacedQueues(
        is_chosen=settings.origin("worker.queues") != DEFAULT, names=frozenset(settings.get("worker.queues"))
    )


def replaced_by_settings(
    settings: Settings, config: Config | None, target: str | None
) -> ReplacedQueues | None:
    """Return the queues of MODULE:CONFIG, if a file or a variable replaces them."""
    origin = settings.origin("worker.queues")
    if config is None or not config.queues or origin in (DEFAULT, target):
        return None
    reason = f"{origin} replaces all queues of {target}"
    return ReplacedQueues(is_chosen=True, names=frozenset(config.queues), reason=reason)


def typos(
    worked: Collection[str], configured: Collection[str], listed: Collection[str]
) -> Iterator[tuple[str, str]]:
    """
    Yield each name that resembles a known one, with that one.

    A worker's own typo is in the table of queues for a day, so only a configured name is certain. A listed queue may be
    meant by its exact name.
    """
    for name in worked:
        near = near_match(name, configured)
        if near is None and name not in listed:
            near = near_match(name, set(listed) - set(worked))
        if near is not None:
            yield name, near
