"""What a program may want to know of at once, told to a function that it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class OrphanEventKind(StrEnum):
    """What happened."""

    ALERT = "alert"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_ABORTED = "run_aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanEvent:
    """
    An alert, or the end of a run.

    `key` is for alerts, `reason` for all but a completed run; `figures` are those of the run's log line.
    """

    bucket: str
    figures: Mapping[str, str | int | float] | None = None
    key: str | None = None
    kind: OrphanEventKind
    reason: str = ""
    run_id: int | None = None


OnEvent = Callable[[OrphanEvent], None]
