"""A recount of flows and joins, for chaos runs and tests."""

from __future__ import annotations

# Flows and joins whose counts are not those of their tasks.
MISCOUNTED = """
WITH tasks AS (
    SELECT
        flow_id,
        state,
        join_ids,
        job_id
    FROM /* schema */millhand_flow_task
),

flows AS (
    SELECT
        flow.id,
        (flow.num_tasks, flow.num_open, flow.num_failed, flow.num_skipped, flow.ended_at IS NOT NULL) AS counted,
        (
            SELECT (
                count(*),
                count(*) FILTER (WHERE state IN ('waiting', 'released')),
                count(*) FILTER (WHERE state = 'failed'),
                count(*) FILTER (WHERE state = 'skipped'),
                count(*) FILTER (WHERE state IN ('waiting', 'released')) = 0
            )
            FROM tasks
            WHERE flow_id = flow.id
        ) AS found
    FROM /* schema */millhand_flow AS flow
),

joins AS (
    SELECT
        joined.id,
        (joined.num_open, joined.num_failed, joined.num_skipped, joined.failed_job_id IS NULL) AS counted,
        (
            SELECT (
                count(*) FILTER (WHERE state IN ('waiting', 'released')),
                count(*) FILTER (WHERE state = 'failed'),
                count(*) FILTER (WHERE state = 'skipped'),
                count(*) FILTER (WHERE state = 'failed') = 0
            )
            FROM tasks
            WHERE flow_id = joined.flow_id AND joined.id = ANY(join_ids)
        ) AS found
    FROM /* schema */millhand_flow_join AS joined
)

SELECT 'flow ' || id AS name, counted::text, found::text FROM flows WHERE counted IS DISTINCT FROM found
UNION ALL
SELECT 'join ' || id, counted::text, found::text FROM joins WHERE counted IS DISTINCT FROM found
"""
