"""Events that a program receives through its `on_event` function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class OrphanEventKind(StrEnum):
    """The kind of an event."""

    ALERT = "alert"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_ABORTED = "run_aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanEvent:
    """
    An alert, or the end of a run.

    Alerts have a `key`; all but a completed run have a `reason`. `figures` are those of the run's log line.
    """

    bucket: str
    figures: Mapping[str, str | int | float] | None = None
    key: str | None = None
    kind: OrphanEventKind
    reason: str = ""
    run_id: int | None = None


OnEvent = Callable[[OrphanEvent], None]
