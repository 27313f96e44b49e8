"""Findings by kind: how many, how many bytes, and a few of them by name."""

from __future__ import annotations

from dataclasses import dataclass

from millhand.driver.protocol import Executor
from millhand.orphans.rules import Kind
from millhand.store.query import Query

# What ends when it is removed; the other kinds ask a person.
FREEABLE = frozenset((Kind.ORPHAN, Kind.ABANDONED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One kind of finding. `examples` are keys, the largest objects first."""

    bytes: int
    examples: tuple[str, ...]
    kind: str
    number: int

    @property
    def is_freeable(self) -> bool:
        """Whether its bytes belong to nobody."""
        return self.kind in FREEABLE


async def summarize_findings(executor: Executor, bucket: str, *, examples: int = 3) -> list[Summary]:
    """Sum up what is not as it should be, as of the last run. Shape: one a kind that there is, by kind."""
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
