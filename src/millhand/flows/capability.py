"""What flows add to a client: a maintainer where it leads, and a cleaner that keeps what a retry needs."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.config import Config
from millhand.engine.capability import Capability, LeaderContext
from millhand.engine.end_writer import EndWriter
from millhand.engine.maintenance.keeper import Keeper, TableKeeper
from millhand.engine.service import Service
from millhand.engine.store.job import Kept
from millhand.flows.store import flow_get_shape

# A flow that did not complete may be retried until its rows are deleted, and then its jobs run or their outputs are read.
UNNEEDED = Kept("""
NOT (
    metadata ? 'workflow_id'
    AND EXISTS (
        SELECT FROM /* schema */millhand_flow_task AS task
        INNER JOIN /* schema */millhand_flow AS flow ON task.flow_id = flow.id
        WHERE task.job_id = river_job.id
        AND (flow.ended_at IS NULL OR flow.num_failed > 0 OR flow.cancelled_at IS NOT NULL)
    )
)
""")


class Flows(Capability):
    """Flows. A new one wakes their maintainer."""

    def keeper(self, config: Config) -> Keeper:
        """Return what keeps a task until its flow has completed, or for as long as its flow can be retried."""
        del config
        return TableKeeper(UNNEEDED, flow_get_shape)

    def end_writer(self) -> EndWriter:
        """Return what counts the tasks that a client ends."""
        from millhand.flows.resolver import TaskEnds  # noqa: PLC0415 - a client needs it at its start

        return TaskEnds()

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        from millhand.flows.maintainer import FlowMaintainer  # noqa: PLC0415 - only a client that may lead needs it

        maintainer = FlowMaintainer(leader.pool, clock=leader.clock)
        leader.woken_by["flow_inserted"] = maintainer
        return [maintainer]
