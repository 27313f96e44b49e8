"""Rows and objects, reconciled: what belongs to nobody is found, kept aside, and only then let go of."""

from __future__ import annotations

from millhand.orphans.config import Mode, OrphansConfig, ReferenceSource
from millhand.orphans.explain import Explanation, explain, list_findings, list_runs
from millhand.orphans.ledger import Action, Finding, Run, RunLost
from millhand.orphans.reconcile import RunReport, reconcile
from millhand.orphans.references import SourceFailed
from millhand.orphans.restore import RestoreReport, restore
from millhand.orphans.scan import Progress

__all__ = [
    "Action",
    "Explanation",
    "Finding",
    "Mode",
    "OrphansConfig",
    "Progress",
    "ReferenceSource",
    "RestoreReport",
    "Run",
    "RunLost",
    "RunReport",
    "SourceFailed",
    "explain",
    "list_findings",
    "list_runs",
    "reconcile",
    "restore",
]
