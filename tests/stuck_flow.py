"""A flow of two tasks as rows, for faults planted into them."""

# Task 1001 ran first, and task 1002 waits for it.
FLOW = """
    INSERT INTO /* schema */river_job (id, kind, args, max_attempts, state, queue, scheduled_at, finalized_at)
    VALUES
        (1001, 'send', '{{}}', 25, '{0}', 'mail', now(), {1}),
        (1002, 'send', '{{}}', 25, 'pending', 'mail', now(), NULL);
    INSERT INTO /* schema */millhand_flow (id, name, num_tasks, num_open, created_at)
    VALUES (7, 'report', 2, 2, now() - interval '3 hours');
    INSERT INTO /* schema */millhand_flow_join (id, flow_id, num_open) VALUES (1, 7, 1);
    INSERT INTO /* schema */millhand_flow_task (job_id, flow_id, state, after_join_id, task_when, join_ids)
    VALUES (1001, 7, 'released', NULL, NULL, '{{1}}'), (1002, 7, 'waiting', 1, 'completed', '{{}}');
"""
