"""Rows and objects, reconciled: what belongs to nobody is found, kept aside, and only then let go of."""

from __future__ import annotations

from millhand.orphans.binding import Binding, bind, read_binding, unbind
from millhand.orphans.config import Mode, OrphansConfig, ReferenceSource
from millhand.orphans.event import OrphanEvent, OrphanEventKind
from millhand.orphans.explain import Explanation, explain, list_findings, list_runs
from millhand.orphans.fleet import help_run
from millhand.orphans.ledger import Action, Finding, Run, RunLost
from millhand.orphans.reconcile import reconcile
from millhand.orphans.references import SourceFailed
from millhand.orphans.report import RunReport
from millhand.orphans.restore import RestoreReport, recall, restore
from millhand.orphans.scan import Progress

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
    "RestoreReport",
    "Run",
    "RunLost",
    "RunReport",
    "SourceFailed",
    "bind",
    "explain",
    "help_run",
    "list_findings",
    "list_runs",
    "read_binding",
    "recall",
    "reconcile",
    "restore",
    "unbind",
]
