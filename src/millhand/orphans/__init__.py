"""Find objects that no row references, quarantine them, and delete them only later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from millhand.core.orphans import Mode, OrphansConfig, ReferenceSource
    from millhand.orphans.binding import Binding, bind, read_binding, unbind
    from millhand.orphans.event import OrphanEvent, OrphanEventKind
    from millhand.orphans.ledger import Action, Finding, Run, RunLost
    from millhand.orphans.rehearsal import Rehearsal, Removal, rehearse
    from millhand.orphans.removal.restore import RestoreReport, recall, restore
    from millhand.orphans.report.explain import Explanation, explain, list_findings, list_runs
    from millhand.orphans.report.report import RunReport
    from millhand.orphans.run import reconcile
    from millhand.orphans.scan.context import Progress
    from millhand.orphans.sources.references import SourceFailed
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.orphans.binding": "Binding bind read_binding unbind",
            "millhand.core.orphans": "Mode OrphansConfig ReferenceSource",
            "millhand.orphans.event": "OrphanEvent OrphanEventKind",
            "millhand.orphans.report.explain": "Explanation explain list_findings list_runs",
            "millhand.orphans.ledger": "Action Finding Run RunLost",
            "millhand.orphans.rehearsal": "Rehearsal Removal rehearse",
            "millhand.orphans.run": "reconcile",
            "millhand.orphans.sources.references": "SourceFailed",
            "millhand.orphans.report.report": "RunReport",
            "millhand.orphans.removal.restore": "RestoreReport recall restore",
            "millhand.orphans.scan.context": "Progress",
        },
    )

__all__ = [
    "Action",
    "Binding",
    "Explanation",
    "Finding",
    "Mode",
    "OrphanEvent",
    "OrphanEventKind",
    "OrphansConfig",
    "Progress",
    "ReferenceSource",
    "Rehearsal",
    "Removal",
    "RestoreReport",
    "Run",
    "RunLost",
    "RunReport",
    "SourceFailed",
    "bind",
    "explain",
    "list_findings",
    "list_runs",
    "read_binding",
    "recall",
    "reconcile",
    "rehearse",
    "restore",
    "unbind",
]
