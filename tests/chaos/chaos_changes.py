"""Evidence without violations, for the tests of audits, and the changes that an audit must notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from chaos_journal import Execution
from chaos_plan import ChaosJob
from chaos_rows import Row


class AnyEvidence(Protocol):
    """The evidence of either audit."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def executions(self) -> Sequence[Execution]: ...

    @property
    def rows(self) -> Sequence[Row]: ...


AnyEvidenceT = TypeVar("AnyEvidenceT", bound=AnyEvidence)


def rows_of(jobs: Sequence[ChaosJob], killed: str, other: str, rescued: str) -> tuple[Row, Row]:
    """Return the rows of two jobs: one killed, rescued, failed and completed; one unique and completed at once."""
    first = Row(
        id=1,
        args=jobs[0].args(),
        attempt=3,
        attempted_by=[killed, other, other],
        errors=[(1, rescued), (2, "boom")],
        metadata={"river:rescue_count": 1},
        state="completed",
    )
    second = Row(
        id=2,
        args=jobs[1].args(),
        attempt=1,
        attempted_by=[other],
        errors=[],
        metadata={},
        state="completed",
        unique_key=b"k",
    )
    return first, second


def evidence_with(**fields: Any) -> Callable[[AnyEvidenceT], AnyEvidenceT]:
    return lambda evidence: dataclasses.replace(evidence, **fields)


def row_with(id: int, **fields: Any) -> Callable[[AnyEvidenceT], AnyEvidenceT]:
    def change(evidence: AnyEvidenceT) -> AnyEvidenceT:
        rows = [dataclasses.replace(row, **fields) if row.id == id else row for row in evidence.rows]
        return dataclasses.replace(evidence, rows=rows)

    return change


def execution_with(index: int, **fields: Any) -> Callable[[AnyEvidenceT], AnyEvidenceT]:
    def change(evidence: AnyEvidenceT) -> AnyEvidenceT:
        executions = list(evidence.executions)
        executions[index] = dataclasses.replace(executions[index], **fields)
        return dataclasses.replace(evidence, executions=executions)

    return change


def changed(*changes: Callable[[AnyEvidenceT], AnyEvidenceT]) -> Callable[[AnyEvidenceT], AnyEvidenceT]:
    def change(evidence: AnyEvidenceT) -> AnyEvidenceT:
        for one in changes:
            evidence = one(evidence)
        return evidence

    return change
