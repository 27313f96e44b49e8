"""Findings by kind: their number, their bytes, and a few examples."""

from __future__ import annotations

from dataclasses import dataclass

from millhand.driver.protocol import Executor
from millhand.orphans.rules import Kind
from millhand.store.query import Query

# Kinds that a run may remove. The other kinds need a decision of yours.
FREEABLE = frozenset((Kind.ORPHAN, Kind.ABANDONED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One kind of finding. `examples` are keys, largest objects first."""

    bytes: int
    examples: tuple[str, ...]
    kind: str
    number: int

    @property
    def is_freeable(self) -> bool:
        """Whether removing it frees its bytes."""
        return self.kind in FREEABLE


async def summarize_findings(executor: Executor, bucket: str, *, examples: int = 3) -> list[Summary]:
    """Return a summary of the last run's findings. Shape: one per kind that occurs, by kind."""
    params = {"bucket": bucket, "examples": examples}
    query = Query(
        "orphan_finding_summarize",
        params,
        lambda rows: [
            Summary(bytes=int(row[2]), examples=tuple(row[3]), kind=row[0], number=row[1]) for row in rows
        ],
        60.0,
    )
    return await executor.run(query)
