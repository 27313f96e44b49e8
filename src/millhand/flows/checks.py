"""Verdicts about flows that do not go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from millhand.core.number_text import counted, duration
from millhand.flows.report_store import StuckFlow
from millhand.shells.doctor.finding import Finding, Found, Level

# The leader counts within seconds. Only its walk over a million tasks takes minutes.
STUCK_FOR = timedelta(minutes=10)
_OF_LEADER = (
    "A leader goes on with it: see fleet.leader, or start a worker. If a client leads, look for `flow not continued` in "
    "its log:"
)


def stuck_findings(flows: Sequence[StuckFlow], now: datetime) -> Found:
    """Judge flows of which no job runs or will run."""
    return [_finding(flow, now) for flow in flows]


def _finding(flow: StuckFlow, now: datetime) -> Finding:
    why, remedy, commands = _reason(flow)
    has_ended = flow.ended_job_id is not None or flow.decided_job_id is not None
    is_halted = not has_ended and flow.halted_job_id is not None  # queues.halted says how bad it is
    return Finding(
        level=Level.HARMFUL if is_halted else Level.BROKEN,
        subject=f"flow {flow.id}",
        found=f"Flow {flow.id}, {flow.name}, has not gone on for {duration(now - flow.last_at)}. {why}",
        effect=f"{counted(flow.num_open, 'task')} {'does' if flow.num_open == 1 else 'do'} not end.",
        remedy=remedy,
        commands=commands,
    )


def _reason(flow: StuckFlow) -> tuple[str, str, tuple[str, ...]]:
    """Return why a flow does not go on, a remedy, and its commands."""
    show = f"millhand flow show {flow.id}"
    if flow.ended_job_id is not None:
        why = f"Job {flow.ended_job_id} has ended or was deleted, and no leader has counted it."
        return why, _OF_LEADER, ("millhand client list", show)
    if flow.decided_job_id is not None:
        why = f"What job {flow.decided_job_id} waited for has ended, and no leader has released it."
        return why, _OF_LEADER, ("millhand client list", show)
    if flow.halted_job_id is not None:
        why = f"Job {flow.halted_job_id} waits in a halted partition."
        remedy = "See which, and retry the job that failed or skip it with millhand limit resume:"
        return why, remedy, ("millhand limit halted", show)
    if flow.pending_job_id is not None:
        why = f"Job {flow.pending_job_id} is pending, and waits for no task and no limit."
        return why, "Make it available:", (f"millhand job retry {flow.pending_job_id}", show)
    why = "Its tasks wait for tasks that have all ended."
    again = (f"millhand flow cancel {flow.id}", f"millhand flow retry {flow.id} --mode failed_only")
    return why, "Cancel it, and retry it, which counts its tasks again:", again
