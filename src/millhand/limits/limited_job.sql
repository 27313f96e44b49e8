-- Limited jobs: how they come to wait for slots, are admitted, and release their slots.
-- A statement locks jobs, then limited jobs, then the limit if it has a total, then partitions in the order of their keys.
-- An admission locks the limit and partitions first, so it skips jobs and limited jobs that others have locked.

-- fragment: key_values
    -- Of a job and its limit. The usual cases need no subquery, and that of one field no concatenation. OFFSET 0 after it
    -- lets a statement compute it once.
    (CASE WHEN NOT limits.by_kind AND cardinality(limits.by_args) = 1
        THEN jsonb_build_array(job.args -> limits.by_args[1])
        ELSE CASE WHEN limits.by_kind THEN jsonb_build_array(job.kind) ELSE '[]' END
        || CASE cardinality(limits.by_args)
            WHEN 0 THEN '[]'
            WHEN 1 THEN jsonb_build_array(job.args -> limits.by_args[1])
            ELSE (
                SELECT jsonb_agg(job.args -> field ORDER BY place)
                FROM unnest(limits.by_args) WITH ORDINALITY AS by_args (field, place)
            )
        END
    END)::text

-- fragment: place_values
    -- Of a job with its `key_values`, for limited_job_columns.
    id, queue, /* partition_key */, priority, scheduled_at

-- fragment: limited_job_columns
    job_id, queue, partition_key, priority, due_at, is_later

-- fragment: next_turn
    (
        SELECT turn
        FROM /* schema */millhand_limit_partition
        WHERE queue = @queue AND is_open
        ORDER BY turn
        LIMIT 1
    )

-- fragment: first_turn
    -- Of the partition that is next, or of the last one. A partition that waited for nothing starts there.
    coalesce(
        /* next_turn */,
        (
            SELECT turn
            FROM /* schema */millhand_limit_partition
            WHERE queue = @queue AND NOT is_open
            ORDER BY turn DESC
            LIMIT 1
        ),
        0
    )

-- fragment: seen_opened
    -- How often the partition was opened, as the snapshot has it.
    (
        SELECT seen.opened
        FROM /* schema */millhand_limit_partition AS seen
        WHERE seen.queue = partition.queue AND seen.partition_key = partition.partition_key
    )

-- fragment: arrived
taken AS (
    DELETE FROM /* schema */millhand_limit_arrival
    WHERE id = ANY(ARRAY(
        SELECT id
        FROM /* schema */millhand_limit_arrival
        WHERE queue = @queue
        ORDER BY id
        LIMIT @limit::integer
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, partition_key
),

opened AS (
    INSERT INTO /* schema */millhand_limit_partition AS partition (queue, partition_key, turn)
    SELECT
        @queue,
        arrival.partition_key,
        /* first_turn */
    FROM (
        SELECT partition_key FROM taken WHERE partition_key <> ''
        UNION
        SELECT partition_key FROM waiting
        UNION
        -- After a change of the limit. An admission that began before it may have closed partitions by the old limit.
        SELECT partition_key
        FROM /* schema */millhand_limit_partition
        WHERE queue = @queue
        AND (is_open OR running > 0)
        AND EXISTS (SELECT FROM taken WHERE taken.partition_key = '')
        UNION
        SELECT partition_key
        FROM /* schema */millhand_limit_partition
        WHERE queue = @queue AND opens_at <= coalesce(@now::timestamptz, now())
        UNION
        -- After a change of by_args or by_kind, the retried job waits in another partition than the one that it halted.
        SELECT partition_key
        FROM /* schema */millhand_limit_partition
        WHERE queue = @queue
        AND opens_at = /* halted_until */
        AND EXISTS (SELECT FROM waiting)
        AND halted_by = ANY(ARRAY(SELECT job_id FROM waiting))
    ) AS arrival
    ORDER BY arrival.partition_key
    ON CONFLICT (queue, partition_key) DO UPDATE SET
        opened = partition.opened + 1,
        -- A retry of the job that halted the partition ends the halt. In order, this job comes before those that wait.
        (is_open, opens_at, held_until, halted_by) = (
            SELECT
                retry.is_there OR (partition.opens_at > coalesce(@now::timestamptz, now())) IS NOT TRUE,
                CASE
                    WHEN NOT retry.is_there AND partition.opens_at > coalesce(@now::timestamptz, now())
                        THEN partition.opens_at
                END,
                CASE WHEN NOT retry.is_there THEN partition.held_until END,
                CASE WHEN NOT retry.is_there THEN partition.halted_by END
            FROM (
                SELECT CASE
                    WHEN partition.held_until = /* halted_until */
                        THEN (
                            partition.halted_by = ANY(ARRAY(SELECT job_id FROM waiting))
                            -- A release without halts has let it wait. It has not failed again since the snapshot.
                            OR (
                                partition.opened = /* seen_opened */
                                AND EXISTS (
                                    SELECT FROM /* schema */millhand_limited_job AS limited
                                    WHERE limited.job_id = partition.halted_by
                                    AND limited.admitted_at IS NULL
                                    AND NOT limited.is_later
                                )
                            )
                        ) IS TRUE
                    ELSE FALSE
                END AS is_there
            ) AS retry
        ),
        turn = CASE WHEN partition.is_open THEN partition.turn ELSE greatest(partition.turn, excluded.turn) END,
        updated_at = coalesce(@now::timestamptz, now())
    RETURNING partition.partition_key
)

-- fragment: is_of_known_kind
    -- Also of a job that was deleted: its row is to be deleted too.
    coalesce(
        (SELECT job.kind = ANY(@kinds::text []) FROM /* schema */river_job AS job WHERE job.id = limited.job_id),
        TRUE
    )

-- fragment: waiting_in_partition
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.queue = @queue
    AND limited.partition_key = partition.partition_key
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later

-- fragment: waiting_in_candidate
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.queue = @queue
    AND limited.partition_key = candidate.partition_key
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later

-- fragment: has_known_kind
    -- Partitions in which all jobs that wait have kinds of other clients may be many. With EXISTS a plan may read all jobs.
    (
        SELECT TRUE
        /* waiting_in_partition */
        AND /* is_of_known_kind */
        LIMIT 1
    )

-- fragment: is_first_known
    -- With the kinds: whether the first job that waits in the partition has one of them, or none waits.
    coalesce(
        (
            SELECT /* is_of_known_kind */
            /* waiting_in_partition */
            ORDER BY limited.priority, limited.due_at, limited.job_id
            LIMIT 1
        ),
        TRUE
    )

-- fragment: is_for_known_kinds
    -- Whether a partition may have a job that this client can work.
    (
        @kinds::text [] IS NULL
        OR /* is_first_known */
        OR /* has_known_kind */
    )

-- fragment: picked
    -- The first waiting jobs of each candidate.
    -- Of many partitions, only jobs are read that have turns until the instant at which all have used @limit turns together.
quota AS MATERIALIZED (
    SELECT
        candidate.*,
        CASE WHEN num_free = 0 OR sum(num_free) OVER () <= 2 * @limit::integer
            THEN num_free
            ELSE least(
                num_free,
                greatest(
                    ceil(
                        (
                            (@limit::integer + sum(turn * weight) FILTER (WHERE num_free > 0) OVER ())
                            / sum(weight) FILTER (WHERE num_free > 0) OVER () - turn
                        ) * weight
                    ) + 1,
                    0
                )
            )::integer
        END AS num_asked
    FROM candidate
),

-- A nested loop: each partition is read from its first waiting job on.
pick AS MATERIALIZED (
    SELECT
        partition_key,
        job_id,
        version,
        turn + (place - 1)::float8 / weight AS tag,
        -- If this was the last job that was read, and the partition may have more: the tag of the next.
        CASE WHEN place = num_asked AND num_asked < num_free THEN turn + place::float8 / weight END AS next_tag
    FROM quota AS candidate
    CROSS JOIN LATERAL (
        SELECT
            job_id,
            xmin AS version,
            -- Here, and not of all partitions together, which would sort all rows.
            row_number() OVER (ORDER BY priority, due_at, job_id) AS place
        /* waiting_in_candidate */
        AND (
            @kinds::text [] IS NULL
            -- In order, the first one, which an admission leaves if only other clients know its kind.
            OR candidate.in_order
            OR /* is_of_known_kind */
        )
        ORDER BY priority, due_at, job_id
        LIMIT candidate.num_asked
    ) AS waiting
)

-- fragment: admitted
    -- Gives slots to the jobs in `locked`, and counts them and those in `pick` by partition.
admitted AS (
    UPDATE /* schema */millhand_limited_job
    SET admitted_at = coalesce(@now::timestamptz, now())
    WHERE job_id = ANY(ARRAY(SELECT id FROM locked))
    AND admitted_at IS NULL
    -- Not one that was snoozed since the snapshot. NOT is_later would let the planner scan the index of all that wait.
    AND is_later IS NOT TRUE
    RETURNING job_id, partition_key
),

num_by_key AS MATERIALIZED (
    SELECT
        partition_key,
        count(*) FILTER (WHERE is_picked)::integer AS num_picked,
        count(*) FILTER (WHERE NOT is_picked)::integer AS num_admitted
    FROM (
        SELECT partition_key, TRUE AS is_picked FROM pick
        UNION ALL
        SELECT partition_key, FALSE AS is_picked FROM admitted
    ) AS counted
    GROUP BY partition_key
)

-- fragment: counted
    -- FULL, because such a join compares by a hash or an order, although the planner expects few rows. Each key is in quota.
    (
        SELECT
            quota.*,
            coalesce(num_by_key.num_picked, 0) AS num_picked,
            coalesce(num_by_key.num_admitted, 0) AS num_admitted
        FROM quota
        FULL JOIN num_by_key ON num_by_key.partition_key = quota.partition_key
    )

-- fragment: is_exhausted
    -- Whether all jobs that wait were admitted, and none came since the statement's snapshot.
    num_picked < num_asked
    AND num_admitted = num_picked
    -- Jobs of kinds that only other clients know keep it open.
    AND (
        @kinds::text [] IS NULL
        OR (
            SELECT TRUE
            /* waiting_in_candidate */
            AND limited.job_id NOT IN (SELECT job_id FROM admitted)
            LIMIT 1
        ) IS NULL
    )
    AND is_as_seen AS is_exhausted

-- fragment: fetched_job
fetched_job AS (
    UPDATE /* schema */river_job AS job
    SET
        /* fetched */
    WHERE job.id = ANY(ARRAY(SELECT job_id FROM admitted))
    RETURNING
        /* fetched_columns */
)

-- fragment: admission_limits
    -- The limit as it is now, and the partitions that have all their slots of this client.
-- Under a total this waits for other admissions, and for a change of the limit. The locked row is the newest; the snapshot
-- has the limit of before the change.
total AS (
    SELECT
        at_once,
        at_once_per_client,
        rate_allowed / rate_seconds AS rate,
        rate_burst,
        in_order,
        greatest(total - num_running, 0) AS num_free
    FROM /* schema */millhand_limit
    WHERE queue = @queue AND total IS NOT NULL
    FOR UPDATE
),

-- None, and no job starts, if the total is reached, or the change removed it or the limit. LIMIT, because the planner
-- expects two rows otherwise.
limits AS (
    SELECT
        at_once,
        at_once_per_client,
        rate,
        rate_burst,
        in_order
    FROM total
    WHERE num_free > 0
    UNION ALL
    SELECT
        at_once,
        at_once_per_client,
        rate_allowed / rate_seconds,
        rate_burst,
        in_order
    FROM /* schema */millhand_limit
    WHERE queue = @queue AND total IS NULL
    LIMIT 1
),

-- Partitions that have all their slots of this client.
full_here AS (
    SELECT here.partition_key COLLATE "C" AS partition_key
    FROM limits
    CROSS JOIN unnest(@keys_here::text [], @num_running_here::integer []) AS here (partition_key, num_running)
    WHERE here.num_running >= limits.at_once_per_client
)

-- fragment: admission_candidates
    -- Open partitions, and how many jobs each may start: `num_free`.
candidate AS (
    SELECT
        with_tokens.*,
        CASE
            WHEN held_until > coalesce(@now::timestamptz, now()) THEN 0
            WHEN was_in_use THEN 0
            ELSE greatest(
                least(
                    @limit::integer,
                    at_once_here - running,
                    at_once_per_client - coalesce(
                        (@num_running_here::integer [])[array_position(@keys_here::text [], partition_key)], 0
                    ),
                    floor(tokens_now)
                ),
                0
            )::integer
        END AS num_free
    FROM (
        SELECT
            open_partition.*,
            limits.in_order,
            limits.rate,
            limits.at_once_per_client,
            -- Whether the partition was opened since the statement's snapshot, which this query reads.
            open_partition.opened = seen.opened AS is_as_seen,
            -- In order, and a job had the slot in the snapshot. It may wait for another attempt now, before those that the
            -- snapshot has.
            limits.in_order AND seen.running > 0 AS was_in_use,
            CASE WHEN limits.in_order THEN 1 ELSE coalesce(open_partition.at_once, limits.at_once) END AS at_once_here,
            greatest(open_partition.refilled_at, coalesce(@now::timestamptz, now())) AS tokens_at,
            CASE WHEN limits.rate IS NOT NULL
                THEN least(
                    limits.rate_burst,
                    coalesce(open_partition.tokens, limits.rate_burst) + coalesce(
                        greatest(
                            extract(
                                EPOCH FROM coalesce(@now::timestamptz, now()) - open_partition.refilled_at
                            )::float8,
                            0
                        ) * limits.rate,
                        0
                    )
                )
            END AS tokens_now
        FROM limits, open_partition, LATERAL (
            SELECT
                opened,
                running
            FROM /* schema */millhand_limit_partition
            WHERE queue = @queue AND partition_key = open_partition.partition_key
            LIMIT 1
        ) AS seen
    ) AS with_tokens
)

-- fragment: uncollected
    -- In order: the first job of each partition that is available, because no collect has let it wait, or one is about to.
    -- More than so many are not read: another one may come before any job.
uncollected AS (
    SELECT
        jsonb_object_agg(partition_key, id) AS first_ids,
        sum(num) > 10000 AS many
    FROM (
        SELECT
            /* partition_key */ AS partition_key,
            min(id) AS id,
            count(*) AS num
        FROM (
            SELECT
                job.id,
                /* key_values */ AS key_values
            FROM /* schema */river_job AS job
            INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = job.queue
            WHERE /* is_uncollected */
            AND (SELECT in_order FROM limits)
            LIMIT 10001
        ) AS keyed
        GROUP BY 1
    ) AS counted
)

-- fragment: chosen
    -- The jobs whose turns come first.
chosen AS (
    SELECT
        partition_key,
        job_id,
        version
    FROM pick
    -- None before a job that was not read.
    WHERE tag <= coalesce((SELECT min(next_tag) FROM pick), 'infinity')
    AND (SELECT many OR (first_ids ->> pick.partition_key)::bigint < pick.job_id FROM uncollected) IS NOT TRUE
    -- In order, none before a job of a kind that only other clients know.
    AND (
        @kinds::text [] IS NULL
        OR NOT (SELECT in_order FROM limits)
        OR (SELECT kind <> ALL(@kinds::text []) FROM /* schema */river_job WHERE id = pick.job_id) IS NOT TRUE
    )
    ORDER BY tag, partition_key
    LIMIT least(@limit::integer, (SELECT num_free FROM total))
)

-- fragment: pending_of_chosen
    -- Of the chosen jobs, those that still wait and that no other transaction has locked.
    SELECT id
    FROM /* schema */river_job
    WHERE id = ANY(ARRAY(SELECT job_id FROM chosen))
    AND (state = 'pending') IS TRUE
    FOR UPDATE SKIP LOCKED

-- fragment: locked_of_chosen
    -- The chosen jobs, locked, and others in place of those that cannot start.
locked_first AS MATERIALIZED (
    /* pending_of_chosen */
),

missing AS (
    SELECT (SELECT count(*) FROM chosen) - (SELECT count(*) FROM locked_first) AS num
),

-- Others in place of those that wait no more, or that a caller's open transaction has locked. Usually nothing is missing.
-- In order, no other job overtakes one that is locked: its transaction may be rolled back.
found_next AS MATERIALIZED (
    SELECT
        id,
        turn + (num_locked + row_number() OVER (PARTITION BY partition_key ORDER BY priority, due_at, id) - 1)::float8
            / weight AS tag,
        partition_key
    FROM (
        SELECT
            candidate.partition_key,
            candidate.turn,
            candidate.weight,
            candidate.num_free,
            count(locked_first.id) AS num_locked
        FROM candidate
        LEFT JOIN chosen ON chosen.partition_key = candidate.partition_key
        LEFT JOIN locked_first ON locked_first.id = chosen.job_id
        WHERE (SELECT num FROM missing) > 0
        AND NOT (SELECT in_order FROM limits)
        GROUP BY candidate.partition_key, candidate.turn, candidate.weight, candidate.num_free
    ) AS quota
    CROSS JOIN LATERAL (
        SELECT
            job.id,
            limited.priority,
            limited.due_at
        FROM /* schema */millhand_limited_job AS limited
        INNER JOIN /* schema */river_job AS job ON job.id = limited.job_id
        WHERE limited.queue = @queue
        AND limited.partition_key = quota.partition_key
        AND limited.admitted_at IS NULL
        AND NOT limited.is_later
        AND limited.job_id <> ALL(ARRAY(SELECT job_id FROM chosen))
        AND (job.state = 'pending') IS TRUE
        AND (@kinds::text [] IS NULL OR job.kind = ANY(@kinds::text []))
        ORDER BY limited.priority, limited.due_at, limited.job_id
        LIMIT least(quota.num_free - quota.num_locked, (SELECT num FROM missing))
        FOR UPDATE OF job SKIP LOCKED
    ) AS waiting
),

locked AS (
    SELECT id FROM locked_first
    UNION ALL
    SELECT id
    FROM (
        SELECT id
        FROM found_next
        ORDER BY tag, partition_key
        LIMIT (SELECT num FROM missing)
    ) AS next
)

-- fragment: stale
    -- Rows of jobs that wait no more: cancelled, deleted, or changed by another program.
stale AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(
        SELECT limited.job_id
        FROM chosen
        INNER JOIN /* schema */millhand_limited_job AS limited ON limited.job_id = chosen.job_id
        WHERE chosen.job_id NOT IN (SELECT id FROM locked)
        -- Repeated, so that rows are found by the primary key, whatever size the planner expects the table to have.
        AND limited.job_id = ANY(ARRAY(SELECT job_id FROM chosen))
        AND limited.admitted_at IS NULL
        -- Not if another statement has changed it meanwhile.
        AND limited.xmin = chosen.version
        AND NOT EXISTS (
            SELECT FROM /* schema */river_job AS job
            WHERE job.id = chosen.job_id AND (job.state = 'pending') IS TRUE
        )
        FOR UPDATE OF limited SKIP LOCKED
    ))
    RETURNING job_id
)

-- fragment: partitions_after_admission
    -- One is exhausted if all jobs that wait in it were admitted. It stays open if a job came or the limit changed after the
    -- statement's snapshot: then it was opened again.
after AS (
    SELECT
        with_next.*,
        NOT is_exhausted AND NOT is_full AND opens_at IS NULL AS is_open
    FROM (
        SELECT
            counted.*,
            CASE
                WHEN is_exhausted THEN NULL
                WHEN held_until > coalesce(@now::timestamptz, now()) THEN held_until
                WHEN NOT is_full AND tokens_after < 1
                    THEN tokens_at + make_interval(secs => (1 - tokens_after) / rate)
            END AS opens_at
        FROM (
            SELECT
                queue,
                partition_key,
                held_until,
                rate,
                tokens_at,
                num_admitted,
                was_in_use OR (num_asked < num_free AND num_picked = num_asked) AS has_rest,
                turn + num_admitted::float8 / weight AS turn,
                tokens_now - num_admitted AS tokens_after,
                coalesce(running + num_admitted >= at_once_here AND is_as_seen, FALSE) AS is_full,
                /* is_exhausted */
            FROM /* counted */ AS candidate
        ) AS counted
    ) AS with_next
),

-- As arrays, of which the planner expects few elements: it finds each partition by the primary key.
change AS MATERIALIZED (
    SELECT
        array_agg(queue) AS queues,
        array_agg(partition_key) AS partition_keys,
        array_agg(num_admitted) AS nums_admitted,
        array_agg(turn) AS turns,
        array_agg(is_open) AS are_open,
        array_agg(opens_at) AS opens_ats,
        array_agg(tokens_after) AS tokens,
        array_agg(tokens_at) AS refilled_ats
    FROM after
    WHERE num_admitted > 0 OR NOT is_open
),

changed AS (
    UPDATE /* schema */millhand_limit_partition AS partition
    SET
        running = partition.running + after.num_admitted,
        turn = after.turn,
        is_open = after.is_open,
        opens_at = after.opens_at,
        tokens = after.tokens,
        refilled_at = CASE WHEN after.tokens IS NOT NULL THEN after.refilled_at END,
        updated_at = coalesce(@now::timestamptz, now())
    FROM change
    CROSS JOIN LATERAL unnest(
        change.queues,
        change.partition_keys,
        change.nums_admitted,
        change.turns,
        change.are_open,
        change.opens_ats,
        change.tokens,
        change.refilled_ats
    ) AS after (queue, partition_key, num_admitted, turn, is_open, opens_at, tokens, refilled_at)
    WHERE partition.queue = after.queue
    AND partition.partition_key = after.partition_key
)

-- fragment: admission
    -- Admits jobs: gives slots to them. `admitted` has their ids and partitions.
    -- A part that is read twice is materialized without the word, and the statement has to be short.
/* admission_limits */,

-- As they are now, because they are locked.
open_partition AS MATERIALIZED (
    SELECT *
    FROM /* schema */millhand_limit_partition AS partition
    WHERE queue = @queue
    AND is_open
    AND EXISTS (SELECT FROM limits)
    AND /* is_for_known_kinds */
    AND partition_key <> ALL(ARRAY(SELECT partition_key FROM full_here))
    ORDER BY turn
    LIMIT @num_partitions::integer
    FOR UPDATE SKIP LOCKED
),

/* admission_candidates */,

/* picked */,

/* uncollected */,

/* chosen */,

/* locked_of_chosen */,

/* admitted */,

/* stale */,

/* partitions_after_admission */,

counted_total AS (
    UPDATE /* schema */millhand_limit
    SET num_running = num_running + (SELECT count(*)::integer FROM admitted)
    WHERE queue = @queue AND total IS NOT NULL AND EXISTS (SELECT FROM admitted)
)

-- fragment: admission_figures
    (
        SELECT extract(EPOCH FROM min(opens_at) - coalesce(@now::timestamptz, now()))::float8
        FROM after
    ) AS opens_in_seconds,
    -- Whether another admission may find jobs: in more partitions, or behind jobs that were locked or wait no more.
    (
        (SELECT count(*) FROM open_partition) = @num_partitions::integer
        OR (SELECT count(*) FROM admitted) < (SELECT count(*) FROM chosen)
        -- Partitions had fewer jobs than they were asked for, and others may have more than that. Or, in order, a slot may
        -- be free that a job had in the snapshot.
        OR (
            (SELECT count(*) FROM chosen) < least(@limit::integer, (SELECT num_free FROM total))
            AND EXISTS (SELECT FROM after WHERE is_open AND has_rest)
        )
    ) AS has_more,
    -- Whether a partition is open that had no turn, because the admission had as many jobs as it asked for.
    EXISTS (SELECT FROM after WHERE is_open) AS has_open,
    -- Whether others had locked partitions.
    (
        (SELECT count(*) FROM open_partition) < @num_partitions::integer
        AND EXISTS (SELECT FROM limits)
        AND (
            SELECT TRUE
            FROM /* schema */millhand_limit_partition AS partition
            WHERE queue = @queue
            AND is_open
            AND partition_key NOT IN (SELECT partition_key FROM open_partition)
            AND partition_key <> ALL(ARRAY(SELECT partition_key FROM full_here))
            AND (
                @kinds::text [] IS NULL
                OR /* has_known_kind */
            )
            ORDER BY turn
            LIMIT 1
        ) IS TRUE
    ) AS is_contended,
    -- How many rows of jobs that wait no more were deleted.
    (SELECT count(*) FROM stale) AS num_stale,
    -- Whether a limit in order has available jobs, which may come before those that wait.
    (SELECT first_ids IS NOT NULL FROM uncollected) AS has_uncollected

-- fragment: halts
    -- Whether a job failed finally and its limit halts the partition then: it has no attempt left, or it cancelled itself.
    -- If a person cancels a job, the next one starts.
    job.queue = ANY(ARRAY(SELECT queue FROM /* schema */millhand_limit WHERE halt AND in_order))
    AND (
        job.state = 'discarded'
        OR (job.state = 'cancelled' AND NOT job.metadata::jsonb ? 'cancel_attempted_at')
    )

-- fragment: released
    -- Releases slots. `freed` has, for each partition, their number, until when it is held, and the job that halts it. The
    -- slot ends in the statement that halts the partition, so no admission comes between.
queue_release AS MATERIALIZED (
    SELECT
        counted.queue,
        counted.num_slots,
        limits.queue IS NULL AS is_unlimited,
        limits.at_once,
        limits.in_order,
        (
            SELECT next.turn
            FROM /* schema */millhand_limit_partition AS next
            WHERE next.queue = counted.queue AND next.is_open
            ORDER BY next.turn
            LIMIT 1
        ) AS first_turn
    FROM (
        SELECT
            queue,
            sum(num_slots)::integer AS num_slots
        FROM freed
        GROUP BY queue
    ) AS counted
    LEFT JOIN /* schema */millhand_limit AS limits ON limits.queue = counted.queue
),

locked_limit AS MATERIALIZED (
    SELECT limits.queue
    FROM /* schema */millhand_limit AS limits
    WHERE limits.queue = ANY(ARRAY(SELECT queue_release.queue FROM queue_release))
    AND limits.total IS NOT NULL
    ORDER BY limits.queue
    FOR UPDATE
),

locked_partition AS MATERIALIZED (
    SELECT
        partition.queue,
        partition.partition_key
    FROM freed
    INNER JOIN /* schema */millhand_limit_partition AS partition
        ON partition.queue = freed.queue AND partition.partition_key = freed.partition_key
    WHERE (SELECT count(*) FROM locked_limit) >= 0
    ORDER BY partition.queue, partition.partition_key
    FOR UPDATE OF partition
),

released_total AS (
    UPDATE /* schema */millhand_limit AS limits
    SET num_running = limits.num_running - released.num_slots
    FROM queue_release AS released
    WHERE limits.queue = released.queue
    AND limits.queue = ANY(ARRAY(SELECT queue FROM locked_limit))
),

partition_release AS MATERIALIZED (
    SELECT
        freed.queue,
        freed.partition_key,
        freed.num_slots,
        freed.halted_by,
        CASE WHEN freed.halted_by IS NULL THEN freed.held_until ELSE /* halted_until */ END AS held_until,
        queue_release.is_unlimited,
        queue_release.at_once,
        queue_release.in_order,
        queue_release.first_turn
    FROM freed
    INNER JOIN queue_release ON queue_release.queue = freed.queue
),

released_partition AS (
    UPDATE /* schema */millhand_limit_partition AS partition
    SET
        running = partition.running - released.num_slots,
        -- A partition that was closed, but not full, has no job that waits, or opens later. Of a limit that was removed
        -- meanwhile it is unknown whether it was full.
        is_open = released.held_until IS NULL
        AND partition.opens_at IS NULL
        AND (
            partition.is_open
            OR released.is_unlimited
            OR released.in_order
            OR partition.running >= coalesce(partition.at_once, released.at_once)
            -- Or by a limit that is newer than this snapshot. A change of the limit counts `opened` up.
            OR partition.opened IS DISTINCT FROM /* seen_opened */
        ) IS TRUE,
        opened = partition.opened + 1,
        -- While it was full, others had turns. It makes up for one round at most.
        turn = greatest(partition.turn, released.first_turn - 1),
        held_until = greatest(partition.held_until, released.held_until),
        opens_at = CASE WHEN released.held_until IS NULL
            THEN partition.opens_at
            ELSE greatest(partition.opens_at, released.held_until)
        END,
        -- Of several, the last: those before it wait before it, so a retry of one of them is no reason to start the next.
        halted_by = CASE
            WHEN released.halted_by IS NULL THEN partition.halted_by
            WHEN partition.held_until = /* halted_until */ THEN greatest(partition.halted_by, released.halted_by)
            ELSE released.halted_by
        END,
        halted_at = CASE WHEN released.halted_by IS NULL THEN partition.halted_at ELSE now() END,
        updated_at = now()
    FROM partition_release AS released
    WHERE partition.queue = released.queue
    AND partition.partition_key = released.partition_key
    AND (SELECT count(*) FROM locked_partition) >= 0
)

-- fragment: arrivals
    -- The partitions to which jobs come. The next collect opens them.
    INSERT INTO /* schema */millhand_limit_arrival (queue, partition_key)
    SELECT DISTINCT
        queue,
        partition_key

-- name: limited_job_insert_many
-- Insert jobs as job_insert_many does. Those of limited queues wait for slots: due ones, and later ones too in a queue that
-- Go workers share. No partition is locked: the next fetch opens those to which jobs came.
WITH /* insert_input */,

/* notified */,

limited AS MATERIALIZED (
    SELECT
        keyed.id AS job_id,
        keyed.queue,
        keyed.is_later,
        /* partition_key */ AS partition_key,
        CASE WHEN keyed.in_order THEN 1 ELSE keyed.priority END::smallint AS priority,
        CASE WHEN keyed.in_order THEN '-infinity' ELSE keyed.scheduled_at END AS due_at
    FROM (
        SELECT
            job.id,
            job.queue,
            job.priority,
            job.scheduled_at,
            limits.in_order,
            job.state = 'scheduled' AS is_later,
            /* key_values */ AS key_values
        FROM input AS job
        INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = job.queue
        WHERE job.state = 'available' OR (job.state = 'scheduled' AND limits.is_shared)
        OFFSET 0
    ) AS keyed
),

inserted AS (
    INSERT INTO /* schema */river_job AS job (id, /* insert_columns */, unique_key, unique_states)
    SELECT
        id,
        args,
        created_at,
        kind,
        max_attempts,
        metadata,
        priority,
        queue,
        scheduled_at,
        CASE WHEN EXISTS (SELECT FROM limited WHERE limited.job_id = input.id) THEN 'pending' ELSE state END,
        tags,
        unique_key,
        unique_states
    /* inserted_of_input */
),

waiting AS (
    INSERT INTO /* schema */millhand_limited_job (/* limited_job_columns */)
    SELECT
        /* limited_job_columns */
    FROM limited
    WHERE job_id IN (SELECT id FROM inserted)
    RETURNING queue, partition_key, is_later
),

arrival AS (
    /* arrivals */
    FROM waiting
    WHERE NOT is_later
)

TABLE inserted;

-- fragment: new_place
        queue = excluded.queue,
        partition_key = excluded.partition_key,
        priority = excluded.priority,
        due_at = excluded.due_at

-- fragment: is_uncollected
    -- A job that is available and has a slot keeps it. One that holds its unique key as pending or running, but not in the
    -- state before, stays available: another job may have the key by then, which would fail this statement or the admission
    -- for all jobs. No client inserts such a job.
    job.state = 'available'
    AND job.queue = @queue
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    -- The bits of running, pending and available.
    AND (
        job.unique_key IS NULL
        OR (job.unique_states & B'01010001' IN (B'01010001', B'00010001', B'00000001', B'00000000')) IS NOT FALSE
    )
    AND NOT EXISTS (
        SELECT FROM /* schema */millhand_limited_job AS limited
        WHERE limited.job_id = job.id AND limited.admitted_at IS NOT NULL
    )

-- fragment: may_begin_to_wait
    /* is_uncollected */
    -- Workers in other languages take the jobs of other kinds as they are. In order, these jobs have places too.
    AND (
        @kinds::text [] IS NULL
        OR job.kind = ANY(@kinds::text [])
        OR (SELECT is_shared OR in_order FROM /* schema */millhand_limit WHERE queue = @queue)
    ) IS TRUE
    AND EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue)

-- name: limited_job_collect
-- Let due jobs of a limited queue that are available wait for slots, and open the partitions to which jobs came. The jobs
-- have one of the kinds, unless Go workers share the queue or the limit is in order.
WITH found AS MATERIALIZED (
    SELECT
        job.id,
        job.args,
        job.kind,
        job.priority,
        job.queue,
        job.scheduled_at
    FROM /* schema */river_job AS job
    WHERE /* may_begin_to_wait */
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
),

waiting AS (
    INSERT INTO /* schema */millhand_limited_job AS limited (/* limited_job_columns */)
    SELECT
        id,
        queue,
        /* partition_key */,
        CASE WHEN in_order THEN 1 ELSE priority END,
        CASE WHEN in_order THEN '-infinity' ELSE scheduled_at END,
        FALSE
    FROM (
        SELECT
            job.*,
            limits.in_order,
            /* key_values */ AS key_values
        FROM found AS job
        INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = job.queue
        OFFSET 0
    ) AS keyed
    ORDER BY id
    ON CONFLICT (job_id) DO UPDATE SET
        /* new_place */,
        is_later = FALSE
    WHERE limited.admitted_at IS NULL
    RETURNING job_id, partition_key
),

-- Not one that has a slot by a newer row than the snapshot has: it keeps its slot.
pending AS (
    UPDATE /* schema */river_job
    SET state = 'pending'
    WHERE id = ANY(ARRAY(SELECT job_id FROM waiting))
),

/* arrived */

SELECT
    (SELECT count(*) FROM found) AS num_jobs,
    (SELECT count(*) FROM taken) AS num_arrivals,
    (SELECT count(*) FROM opened) AS num_partitions,
    -- Whether others had arrivals or jobs locked. Another collect opens their partitions, which no admission sees before it
    -- has committed.
    -- As indexes have them, because a scan for the first row might read a whole table.
    (
        SELECT TRUE
        FROM /* schema */millhand_limit_arrival
        WHERE queue = @queue AND id NOT IN (SELECT id FROM taken)
        ORDER BY queue, id
        LIMIT 1
    ) IS TRUE AS is_contended,
    (
        (SELECT count(*) FROM found) < @limit::integer
        AND (
            SELECT TRUE
            FROM /* schema */river_job AS job
            WHERE /* may_begin_to_wait */
            AND job.id NOT IN (SELECT id FROM found)
            ORDER BY job.priority, job.scheduled_at, job.id
            LIMIT 1
        ) IS TRUE
    ) AS has_locked_jobs;

-- name: limited_job_admit
-- Admit up to @limit jobs of a limited queue and mark them running. A row without a job has the figures if there is none.
WITH /* admission */,

/* fetched_job */

SELECT
    fetched_job.*,
    -- Only a limit of each client needs them.
    (
        SELECT jsonb_object_agg(job_id, partition_key)
        FROM admitted
        WHERE (SELECT at_once_per_client FROM limits) IS NOT NULL
    ) ->> fetched_job.id::text AS partition_key,
    figures.*
FROM (
    SELECT
        /* admission_figures */
) AS figures
LEFT JOIN fetched_job ON TRUE;

-- fragment: notified_of_available
notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', @queue::text)::text)
    WHERE EXISTS (SELECT FROM available)
)

-- name: limited_job_admit_available
-- Admit up to @limit jobs of a limited queue and make them available, for workers of other languages; notify these.
WITH /* admission */,

available AS (
    UPDATE /* schema */river_job
    SET state = 'available'
    WHERE id = ANY(ARRAY(SELECT job_id FROM admitted))
    RETURNING id
),

/* notified_of_available */

SELECT
    (SELECT count(*) FROM available) AS num_jobs,
    (SELECT count(*) FROM notified) AS num_notified,
    /* admission_figures */;

-- name: limited_job_get_available
-- Lock up to @limit available jobs of a queue that have slots, and mark them running, as job_get_available does.
WITH locked AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.state = 'available'
    AND job.queue = @queue
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    AND (@kinds::text [] IS NULL OR job.kind = ANY(@kinds::text [])) IS TRUE
    AND EXISTS (
        SELECT FROM /* schema */millhand_limited_job AS limited
        WHERE limited.job_id = job.id AND limited.admitted_at IS NOT NULL
    )
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
)

/* fetched_of_locked */;

-- fragment: slot_of_ended
    -- Deletes the slots of jobs in `ended`.
slot AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended))
    AND admitted_at IS NOT NULL
    RETURNING job_id, queue, partition_key
)

-- fragment: num_slots_by_partition
    -- How many slots each partition gives back, without a hold and without a halt.
    queue,
    partition_key,
    count(*)::integer AS num_slots,
    NULL::timestamptz AS held_until,
    NULL::bigint AS halted_by

-- fragment: freed_of_slots
freed AS MATERIALIZED (
    SELECT
        /* num_slots_by_partition */
    FROM slot
    GROUP BY queue, partition_key
)

-- fragment: freed_of_ended
/* slot_of_ended */,

/* freed_of_slots */

-- name: limited_job_complete_many
-- Complete jobs as job_complete_many does, and release their slots.
WITH /* completed */,

/* freed_of_ended */,

/* released */

SELECT array_agg(id) FROM ended;

-- fragment: completed_and_freed
    -- Completes jobs if the limit is only a number at once, deletes their slots, and locks the partitions of these.
/* ended_ids */,

limits AS MATERIALIZED (
    SELECT at_once
    FROM /* schema */millhand_limit
    WHERE queue = @queue
    AND at_once IS NOT NULL
    AND at_once_per_client IS NULL
    AND total IS NULL
    AND rate_allowed IS NULL
    AND NOT in_order
),

own AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.id = ANY((SELECT ids FROM ended_ids)::bigint [])
    AND /* own_attempt */
    AND EXISTS (SELECT FROM limits)
    -- A job that a caller's open transaction has locked holds up no fetch.
    FOR UPDATE SKIP LOCKED
),

ended AS (
    UPDATE /* schema */river_job AS job
    SET
        state = 'completed',
        /* finalized_at_of_ended */
    WHERE job.id = ANY(ARRAY(SELECT id FROM own))
    AND (job.state = 'running') IS TRUE
    RETURNING job.id
),

slot AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(SELECT id FROM ended))
    AND queue = @queue
    AND admitted_at IS NOT NULL
    RETURNING queue, partition_key
),

freed AS MATERIALIZED (
    SELECT
        queue,
        partition_key,
        count(*)::integer AS num_slots
    FROM slot
    GROUP BY queue, partition_key
),

freed_partition AS MATERIALIZED (
    SELECT
        partition.queue,
        partition.partition_key,
        partition.opened,
        partition.running,
        partition.turn,
        partition.weight,
        partition.held_until,
        partition.at_once,
        partition.is_open,
        partition.opens_at,
        freed.num_slots
    FROM freed
    INNER JOIN /* schema */millhand_limit_partition AS partition
        ON partition.queue = freed.queue AND partition.partition_key = freed.partition_key
    ORDER BY partition.queue, partition.partition_key
    FOR UPDATE OF partition
)

-- fragment: completion_candidates
    -- Partitions of completed jobs and open ones, and how many jobs each may start: `num_free`.
candidate AS MATERIALIZED (
    SELECT
        ready.*,
        -- Or it was full by a limit that is newer than this snapshot.
        was_ready OR (opens_at IS NULL AND NOT is_as_seen) AS is_ready,
        CASE WHEN was_ready AND is_as_seen AND (held_until > coalesce(@now::timestamptz, now())) IS NOT TRUE
            THEN greatest(least(@limit::integer, at_once_here - running), 0)
            ELSE 0
        END AS num_free
    FROM (
        SELECT
            locked.queue,
            locked.partition_key,
            locked.weight,
            locked.held_until,
            locked.opens_at,
            locked.num_slots,
            FALSE AS in_order,
            locked.running - locked.num_slots AS running,
            -- While it was full, others had turns. It makes up for one round at most.
            CASE WHEN locked.num_slots > 0
                THEN greatest(locked.turn, /* next_turn */ - 1)
                ELSE locked.turn
            END AS turn,
            coalesce(locked.at_once, limits.at_once) AS at_once_here,
            -- A partition that was closed, but not full, has no job that waits, or opens later.
            locked.is_open OR (
                locked.opens_at IS NULL AND locked.running >= coalesce(locked.at_once, limits.at_once)
            ) AS was_ready,
            coalesce(
                locked.opened = (
                    SELECT seen.opened
                    FROM /* schema */millhand_limit_partition AS seen
                    WHERE seen.queue = @queue AND seen.partition_key = locked.partition_key
                ),
                FALSE
            ) AS is_as_seen
        FROM (
            TABLE freed_partition
            UNION ALL
            TABLE open_partition
        ) AS locked, limits
    ) AS ready
)

-- fragment: partitions_after_completion
    -- As partitions_after_admission, also of partitions whose slots were released.
after AS MATERIALIZED (
    SELECT
        with_end.*,
        is_ready AND NOT is_exhausted AND NOT is_full AND opens_at IS NULL AS is_open
    FROM (
        SELECT
            counted.queue,
            counted.partition_key,
            counted.is_ready,
            counted.is_exhausted,
            counted.num_slots,
            counted.num_admitted,
            counted.turn + counted.num_admitted::float8 / counted.weight AS turn,
            counted.num_asked < counted.num_free AND counted.num_picked = counted.num_asked AS has_rest,
            counted.running + counted.num_admitted >= counted.at_once_here AND counted.is_as_seen AS is_full,
            CASE
                WHEN NOT counted.is_ready THEN counted.opens_at
                WHEN counted.is_exhausted THEN NULL
                WHEN counted.held_until > coalesce(@now::timestamptz, now()) THEN counted.held_until
            END AS opens_at
        FROM (
            SELECT
                candidate.*,
                /* is_exhausted */
            FROM /* counted */ AS candidate
        ) AS counted
    ) AS with_end
),

change AS MATERIALIZED (
    SELECT
        array_agg(queue) AS queues,
        array_agg(partition_key) AS partition_keys,
        array_agg(num_slots) AS nums_slots,
        array_agg(num_admitted) AS nums_admitted,
        array_agg(turn) AS turns,
        array_agg(is_open) AS are_open,
        array_agg(opens_at) AS opens_ats
    FROM after
    WHERE num_slots > 0 OR num_admitted > 0 OR NOT is_open
),

changed AS (
    UPDATE /* schema */millhand_limit_partition AS partition
    SET
        running = partition.running - after.num_slots + after.num_admitted,
        turn = after.turn,
        is_open = after.is_open,
        opened = partition.opened + CASE WHEN after.num_slots > 0 THEN 1 ELSE 0 END,
        opens_at = after.opens_at,
        updated_at = coalesce(@now::timestamptz, now())
    FROM change
    CROSS JOIN LATERAL unnest(
        change.queues,
        change.partition_keys,
        change.nums_slots,
        change.nums_admitted,
        change.turns,
        change.are_open,
        change.opens_ats
    ) AS after (queue, partition_key, num_slots, num_admitted, turn, is_open, opens_at)
    WHERE partition.queue = after.queue
    AND partition.partition_key = after.partition_key
)

-- fragment: completion_figures
    ARRAY(SELECT id FROM ended) AS completed_ids,
    (
        SELECT extract(EPOCH FROM min(opens_at) - coalesce(@now::timestamptz, now()))::float8
        FROM after
        WHERE is_ready
    ) AS opens_in_seconds,
    -- Whether an admission may find jobs: in more partitions, in place of those that were locked or wait no more, or where
    -- this statement has waited for a lock.
    (
        (SELECT count(*) FROM open_partition) = @num_partitions::integer
        OR (SELECT count(*) FROM admitted) < (SELECT count(*) FROM chosen)
        OR ((SELECT count(*) FROM chosen) < @limit::integer AND EXISTS (SELECT FROM after WHERE is_open AND has_rest))
        OR EXISTS (SELECT FROM candidate WHERE is_ready AND NOT is_as_seen)
    ) AS has_more,
    EXISTS (SELECT FROM after WHERE is_open) AS has_open,
    (
        (SELECT count(*) FROM open_partition) < @num_partitions::integer
        AND EXISTS (SELECT FROM limits)
        AND (
            SELECT TRUE
            FROM /* schema */millhand_limit_partition AS partition
            WHERE queue = @queue
            AND is_open
            AND partition_key NOT IN (SELECT partition_key FROM candidate)
            AND /* is_for_known_kinds */
            ORDER BY turn
            LIMIT 1
        ) IS TRUE
    ) AS is_contended

-- name: limited_job_complete_and_admit
-- Complete jobs of one queue as limited_job_complete_many does, and admit up to @limit jobs as limited_job_admit does. It
-- changes nothing unless the limit is only a number at once. The first row has the figures, the others are jobs.
-- Partitions of ended jobs are locked first, in the order of their keys, and then others, which it skips if they are locked.
-- After it has waited for a lock, the limit may be another one: then `opened` has changed, and it admits no job there.
WITH /* completed_and_freed */,

open_partition AS MATERIALIZED (
    SELECT
        queue,
        partition_key,
        opened,
        running,
        turn,
        weight,
        held_until,
        at_once,
        is_open,
        opens_at,
        0 AS num_slots
    FROM /* schema */millhand_limit_partition AS partition
    WHERE queue = @queue
    AND is_open
    AND EXISTS (SELECT FROM limits)
    AND (SELECT count(*) FROM freed_partition) >= 0
    AND ((SELECT jsonb_object_agg(partition_key, TRUE) FROM freed) ? partition_key) IS NOT TRUE
    AND /* is_for_known_kinds */
    ORDER BY turn
    LIMIT @num_partitions::integer
    FOR UPDATE SKIP LOCKED
),

/* completion_candidates */,

/* picked */,

chosen AS MATERIALIZED (
    SELECT job_id
    FROM pick
    WHERE tag <= coalesce((SELECT min(next_tag) FROM pick), 'infinity')
    ORDER BY tag, partition_key
    LIMIT @limit::integer
),

locked AS MATERIALIZED (
    /* pending_of_chosen */
),

/* admitted */,

/* partitions_after_completion */,

/* fetched_job */

SELECT
    fetched_job.*,
    figures.*
FROM (
    SELECT
        /* completion_figures */
) AS figures
LEFT JOIN fetched_job ON FALSE
UNION ALL
SELECT
    fetched_job.*,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL
FROM fetched_job;

-- name: limited_job_delete_completed_many
-- Delete jobs as job_delete_completed_many does, and release their slots.
WITH /* deleted_completed */,

/* freed_of_ended */,

/* released */

SELECT array_agg(id) FROM ended;

-- name: limited_job_set_state_if_running_many
-- Write outcomes of attempts as job_set_state_if_running_many does, and release the slots. A limit in order lets a job that
-- is tried again keep its slot. In a queue that Go workers share such a job is pending, and waits for a slot when it is due.
WITH /* set_states */,

/* awaited_results */,

halting AS MATERIALIZED (
    SELECT job.id
    FROM updated AS job
    WHERE /* halts */
),

-- Arrays, because the planner expects one such job and would compare each with each.
pending AS MATERIALIZED (
    SELECT
        array_agg(id ORDER BY id) AS ids,
        array_agg(scheduled_at ORDER BY id) AS due_ats
    FROM updated
    WHERE state = 'pending'
),

later AS (
    UPDATE /* schema */millhand_limited_job AS limited
    SET
        admitted_at = NULL,
        due_at = pending.due_ats[width_bucket(limited.job_id, pending.ids)],
        is_later = TRUE
    FROM pending
    WHERE limited.job_id = ANY((SELECT ids FROM pending)::bigint [])
    AND limited.admitted_at IS NOT NULL
    RETURNING limited.job_id, limited.queue, limited.partition_key
),

slot AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(
        SELECT updated.id
        FROM updated
        LEFT JOIN /* schema */millhand_limit AS limits ON limits.queue = updated.queue
        WHERE updated.state NOT IN ('pending', 'running')
        AND NOT (updated.state IN ('available', 'retryable', 'scheduled') AND limits.in_order IS TRUE)
    ))
    AND admitted_at IS NOT NULL
    RETURNING job_id, queue, partition_key
),

-- Of jobs in order that keep their slots. A hold stays also if such a job is cancelled.
kept AS MATERIALIZED (
    SELECT
        limited.job_id,
        limited.queue,
        limited.partition_key
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.job_id = ANY(@held_ids::bigint [])
    AND limited.job_id = ANY(ARRAY(SELECT id FROM updated))
    AND limited.admitted_at IS NOT NULL
    AND limited.job_id NOT IN (
        SELECT job_id FROM later
        UNION ALL
        SELECT job_id FROM slot
    )
),

freed AS MATERIALIZED (
    SELECT
        released.queue,
        released.partition_key,
        sum(released.num_slots)::integer AS num_slots,
        max(held.until) AS held_until,
        max(released.job_id) FILTER (WHERE released.job_id IN (SELECT id FROM halting)) AS halted_by
    FROM (
        SELECT
            *,
            1 AS num_slots
        FROM later
        UNION ALL
        SELECT
            *,
            1
        FROM slot
        UNION ALL
        SELECT
            *,
            0
        FROM kept
    ) AS released
    LEFT JOIN unnest(@held_ids::bigint [], @held_untils::timestamptz []) AS held (job_id, until)
        ON held.job_id = released.job_id
    GROUP BY released.queue, released.partition_key
),

/* released */

/* updated_and_unchanged */;

-- name: limited_job_is_due
-- Return whether a job of the queues waits for a slot, or will before an instant. Those of partitions that open later do not
-- count.
SELECT EXISTS (
    SELECT
    FROM unnest(@queues::text []) AS wanted (queue)
    CROSS JOIN LATERAL (
        (
            SELECT
            FROM /* schema */millhand_limit_arrival AS arrival
            WHERE arrival.queue = wanted.queue
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
            FROM /* schema */millhand_limit_partition AS partition
            WHERE partition.queue = wanted.queue
            AND (partition.opens_at > @until::timestamptz) IS NOT TRUE
            AND EXISTS (
                SELECT FROM /* schema */millhand_limited_job AS limited
                WHERE limited.queue = wanted.queue
                AND limited.partition_key = partition.partition_key
                AND limited.admitted_at IS NULL
                AND NOT limited.is_later
            )
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
            FROM /* schema */millhand_limited_job AS limited
            WHERE limited.queue = wanted.queue AND limited.is_later AND limited.due_at <= @until::timestamptz
            LIMIT 1
        )
    ) AS due
);

-- name: limited_job_release_ended
-- Release the slots of jobs that ended without Millhand's completer: finished or deleted by another program, or made to
-- wait again. In a queue in order, a job that waits again keeps its slot; in a shared queue, one that is available does.
WITH held AS MATERIALIZED (
    SELECT
        limited.job_id,
        job.id IS NULL AS is_deleted,
        limits.in_order,
        limits.is_shared
    FROM /* schema */millhand_limited_job AS limited
    LEFT JOIN /* schema */river_job AS job ON job.id = limited.job_id
    LEFT JOIN /* schema */millhand_limit AS limits ON limits.queue = limited.queue
    WHERE limited.admitted_at IS NOT NULL
    AND (job.id IS NULL OR job.state <> 'running')
    AND (limits.in_order AND job.state IN ('available', 'retryable', 'scheduled')) IS NOT TRUE
    AND (limits.is_shared AND job.state = 'available') IS NOT TRUE
    -- As the index of admitted jobs has them. Without this the planner may read all that wait.
    ORDER BY limited.queue, limited.job_id
    LIMIT @limit::integer
),

locked AS MATERIALIZED (
    SELECT
        job.id,
        /* halts */ AS is_halting
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT job_id FROM held WHERE NOT is_deleted))
    AND (job.state <> 'running') IS TRUE
    -- As above, of the row as it is now.
    AND NOT (job.state = 'available' AND EXISTS (
        SELECT FROM held WHERE held.job_id = job.id AND (held.is_shared IS TRUE OR held.in_order IS TRUE)
    ))
    FOR UPDATE SKIP LOCKED
),

ended AS MATERIALIZED (
    SELECT limited.job_id AS id
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.job_id = ANY(ARRAY(
        SELECT id FROM locked
        UNION
        SELECT job_id FROM held WHERE is_deleted
    ))
    AND limited.admitted_at IS NOT NULL
    FOR UPDATE SKIP LOCKED
),

/* slot_of_ended */,

freed AS MATERIALIZED (
    SELECT
        queue,
        partition_key,
        count(*)::integer AS num_slots,
        NULL::timestamptz AS held_until,
        max(job_id) FILTER (WHERE job_id IN (SELECT id FROM locked WHERE is_halting)) AS halted_by
    FROM slot
    GROUP BY queue, partition_key
),

/* released */

SELECT count(*) FROM slot;

-- name: limited_job_wait_again
-- Let jobs of queues in order, which kept their slots while they waited for their next attempt and are due, wait for a slot.
-- No other job of the partition comes between: this job has the lowest id. It may have run before the limit was in order.
WITH found AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(
        SELECT limited.job_id
        FROM /* schema */millhand_limited_job AS limited
        INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = limited.queue
        WHERE limited.admitted_at IS NOT NULL AND limits.in_order
    ))
    AND (job.state = 'available') IS TRUE
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
),

slot AS (
    UPDATE /* schema */millhand_limited_job
    SET
        admitted_at = NULL,
        priority = 1,
        due_at = '-infinity'
    WHERE job_id = ANY(ARRAY(SELECT id FROM found))
    AND admitted_at IS NOT NULL
    RETURNING job_id, queue, partition_key
),

pending AS (
    UPDATE /* schema */river_job
    SET state = 'pending'
    WHERE id = ANY(ARRAY(SELECT job_id FROM slot))
),

/* freed_of_slots */,

/* released */,

arrival AS (
    /* arrivals */
    FROM slot
)

SELECT count(*) FROM slot;

-- name: limited_job_order
-- Let jobs of queues in order that waited before the limit was in order wait by id. It reads all jobs that wait there.
WITH found AS MATERIALIZED (
    SELECT limited.job_id
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.queue = ANY(ARRAY(SELECT queue FROM /* schema */millhand_limit WHERE in_order))
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later
    AND limited.due_at > '-infinity'
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
),

ordered AS (
    UPDATE /* schema */millhand_limited_job
    SET
        priority = 1,
        due_at = '-infinity'
    WHERE job_id = ANY(ARRAY(SELECT job_id FROM found))
    AND admitted_at IS NULL
    RETURNING job_id
)

SELECT count(*) FROM ordered;

-- name: limited_job_park
-- Let jobs of shared queues that wait for another attempt or for their instant wait as pending, and release their slots, so
-- that no worker fetches one without a slot.
WITH found AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.queue = ANY(ARRAY(SELECT queue FROM /* schema */millhand_limit WHERE is_shared))
    AND (
        job.state IN ('retryable', 'scheduled')
        OR (
            job.state = 'available'
            AND job.scheduled_at > coalesce(@now::timestamptz, now())
        )
    )
    -- Another job may have the unique key of one that does not hold it in its state.
    AND (
        job.unique_key IS NULL
        OR job.unique_states IS NULL
        OR /* schema */river_job_state_in_bitmask(job.unique_states, job.state)
    )
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
),

pending AS (
    UPDATE /* schema */river_job AS job
    SET state = 'pending'
    WHERE job.id = ANY(ARRAY(SELECT id FROM found))
    RETURNING job.id, job.args, job.kind, job.priority, job.queue, job.scheduled_at
),

had_slot AS MATERIALIZED (
    SELECT
        job_id,
        queue,
        partition_key
    FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(SELECT id FROM found))
    AND admitted_at IS NOT NULL
    FOR UPDATE
),

later AS (
    INSERT INTO /* schema */millhand_limited_job AS limited (/* limited_job_columns */)
    SELECT
        /* place_values */,
        TRUE
    FROM (
        SELECT
            job.*,
            /* key_values */ AS key_values
        FROM pending AS job
        INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = job.queue
        OFFSET 0
    ) AS keyed
    WHERE (SELECT count(*) FROM had_slot) >= 0
    ORDER BY id
    ON CONFLICT (job_id) DO UPDATE SET
        /* new_place */,
        is_later = TRUE,
        admitted_at = NULL
),

freed AS MATERIALIZED (
    SELECT
        /* num_slots_by_partition */
    FROM had_slot
    GROUP BY queue, partition_key
),

/* released */

SELECT count(*) FROM pending;

-- name: limited_job_begin_to_wait
-- Let later jobs that are due wait for slots.
WITH due AS (
    UPDATE /* schema */millhand_limited_job
    SET is_later = FALSE
    WHERE job_id = ANY(ARRAY(
        SELECT job_id
        FROM /* schema */millhand_limited_job
        WHERE is_later AND due_at <= coalesce(@now::timestamptz, now())
        AND queue = ANY(ARRAY(SELECT queue FROM /* schema */millhand_limit))
        LIMIT @limit::integer
        FOR UPDATE SKIP LOCKED
    ))
    AND is_later
    RETURNING queue, partition_key
),

arrival AS (
    /* arrivals */
    FROM due
)

SELECT count(*) FROM due;

-- name: limited_job_retry_many
-- Let jobs of limited queues that are pending until their time wait for slots; return those that wait for slots now.
WITH locked AS MATERIALIZED (
    SELECT
        job.id,
        job.state
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(@ids::bigint [])
    ORDER BY job.id
    FOR UPDATE
),

waiting AS (
    UPDATE /* schema */millhand_limited_job AS limited
    SET
        due_at = least(limited.due_at, coalesce(@now::timestamptz, now())),
        is_later = FALSE
    -- An array and not a join, which the planner might answer with a scan of the whole table.
    WHERE limited.job_id = ANY(ARRAY(SELECT locked.id FROM locked WHERE locked.state = 'pending'))
    AND limited.admitted_at IS NULL
    AND limited.queue = ANY(ARRAY(SELECT limits.queue FROM /* schema */millhand_limit AS limits))
    RETURNING limited.job_id, limited.queue, limited.partition_key
),

arrival AS (
    /* arrivals */
    FROM waiting
)

UPDATE /* schema */river_job AS job
SET scheduled_at = least(job.scheduled_at, coalesce(@now::timestamptz, now()))
WHERE job.id = ANY(ARRAY(SELECT job_id FROM waiting))
RETURNING
    /* job_columns */;

-- name: limited_job_snooze
-- Let a job that waits for a slot wait until an instant: in a queue that only Python works as a scheduled job, which has no
-- place. Return the row, and whether it was changed.
WITH /* locked_job */,

later AS (
    UPDATE /* schema */millhand_limited_job AS limited
    SET
        due_at = @until::timestamptz,
        is_later = TRUE
    FROM locked
    WHERE limited.job_id = locked.id
    AND locked.state = 'pending'
    AND limited.admitted_at IS NULL
    AND limited.queue = ANY(ARRAY(SELECT queue FROM /* schema */millhand_limit WHERE is_shared))
    RETURNING limited.job_id, 'pending' AS state
),

gone AS (
    DELETE FROM /* schema */millhand_limited_job AS limited
    USING locked
    WHERE limited.job_id = locked.id
    AND locked.state = 'pending'
    AND limited.admitted_at IS NULL
    AND limited.queue <> ALL(ARRAY(SELECT queue FROM /* schema */millhand_limit WHERE is_shared))
    RETURNING limited.job_id, 'scheduled' AS state
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        scheduled_at = @until::timestamptz,
        state = snoozed.state::/* schema */river_job_state
    FROM (
        TABLE later
        UNION ALL
        TABLE gone
    ) AS snoozed
    WHERE job.id = snoozed.job_id
    RETURNING
        /* job_columns */
)

/* snoozed */;

-- fragment: adopted
    -- Lets jobs in `found` wait for slots, and counts them.
waiting AS (
    INSERT INTO /* schema */millhand_limited_job (/* limited_job_columns */)
    SELECT
        /* place_values */,
        scheduled_at > coalesce(@now::timestamptz, now())
    FROM (
        SELECT
            job.*,
            /* key_values */ AS key_values
        FROM /* schema */river_job AS job
        INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = job.queue
        WHERE job.id = ANY(ARRAY(SELECT id FROM found))
        OFFSET 0
    ) AS keyed
    ORDER BY id
    ON CONFLICT (job_id) DO NOTHING
    RETURNING queue, partition_key, is_later
),

arrival AS (
    /* arrivals */
    FROM waiting
    WHERE NOT is_later
)

SELECT count(*) FROM waiting

-- name: limited_job_adopt_pending
-- Let pending jobs of a shared queue wait for slots that a Go client inserted so. Jobs of workflows wait for other jobs.
-- It reads all pending jobs of the queue.
WITH found AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.state = 'pending'
    AND job.queue = @queue
    AND EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue AND is_shared)
    AND NOT EXISTS (SELECT FROM /* schema */millhand_limited_job AS limited WHERE limited.job_id = job.id)
    AND NOT job.metadata ? 'workflow_id'
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
),

/* adopted */;

-- name: limited_job_adopt_newest
-- Do as limited_job_adopt_pending, but read only the newest @num_read jobs of all.
WITH newest AS MATERIALIZED (
    SELECT max(id) - @num_read::bigint AS after_id
    FROM /* schema */river_job
),

found AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    -- IS TRUE prevents a scan of the index by state, which has an entry for each pending job.
    WHERE job.id > (SELECT after_id FROM newest)
    AND (job.state = 'pending') IS TRUE
    AND (job.queue = @queue) IS TRUE
    AND EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue AND is_shared)
    AND NOT EXISTS (
        SELECT FROM /* schema */millhand_limited_job AS limited
        WHERE limited.job_id = job.id AND limited.job_id > (SELECT after_id FROM newest)
    )
    AND NOT job.metadata ? 'workflow_id'
    LIMIT @limit::integer
    FOR UPDATE OF job SKIP LOCKED
),

/* adopted */;

-- name: limited_job_get_partition_keys
-- Return the partitions of jobs that have slots.
SELECT
    job_id,
    partition_key
FROM /* schema */millhand_limited_job
WHERE job_id = ANY(@ids::bigint []) AND admitted_at IS NOT NULL;

-- name: limited_job_get_unlimited
-- Return the queues in which jobs wait for slots of limits that were removed. It reads one index entry of each queue.
WITH RECURSIVE waiting AS (
    SELECT '' AS queue
    UNION ALL
    SELECT (
        SELECT limited.queue
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue > waiting.queue AND limited.admitted_at IS NULL AND NOT limited.is_later
        ORDER BY limited.queue
        LIMIT 1
    )
    FROM waiting
    WHERE waiting.queue IS NOT NULL
),

later AS (
    SELECT '' AS queue
    UNION ALL
    SELECT (
        SELECT limited.queue
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue > later.queue AND limited.is_later
        ORDER BY limited.queue
        LIMIT 1
    )
    FROM later
    WHERE later.queue IS NOT NULL
)

SELECT queue
FROM (
    TABLE waiting
    UNION
    TABLE later
) AS found
WHERE queue <> '' AND queue <> ALL(ARRAY(SELECT queue FROM /* schema */millhand_limit))
ORDER BY queue;

-- fragment: made_available
    -- Makes waiting jobs in `found` available, notifies the queue, and counts both.
locked AS MATERIALIZED (
    SELECT id
    FROM /* schema */river_job
    WHERE id = ANY(ARRAY(SELECT job_id FROM found))
    FOR UPDATE SKIP LOCKED
),

gone AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(
        SELECT id FROM locked
        UNION
        SELECT job_id FROM found
        WHERE NOT EXISTS (SELECT FROM /* schema */river_job AS job WHERE job.id = found.job_id)
    ))
    AND admitted_at IS NULL
    RETURNING job_id
),

available AS (
    UPDATE /* schema */river_job AS job
    SET state = 'available'
    WHERE job.id = ANY(ARRAY(SELECT job_id FROM gone))
    AND (job.state = 'pending') IS TRUE
    RETURNING job.id
),

/* notified_of_available */

SELECT
    (SELECT count(*) FROM gone) AS num_jobs,
    (SELECT count(*) FROM notified) AS num_notified

-- name: limited_job_free
-- Make jobs of a queue available that wait for slots of a limit that was removed, and notify the queue.
WITH found AS MATERIALIZED (
    SELECT job_id
    FROM (
        SELECT job_id
        FROM /* schema */millhand_limited_job
        WHERE queue = @queue AND admitted_at IS NULL AND NOT is_later
        UNION ALL
        SELECT job_id
        FROM /* schema */millhand_limited_job
        WHERE queue = @queue AND admitted_at IS NULL AND is_later
    ) AS waiting
    WHERE NOT EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue)
    LIMIT @limit::integer
),

/* made_available */;

-- name: limited_job_leave
-- Make jobs of a queue available that wait for slots and have none of the kinds, and notify the queue. Workers in other
-- languages then take them. In order, and in a queue that these share, such jobs keep waiting. It reads all waiting jobs.
WITH found AS MATERIALIZED (
    SELECT limited.job_id
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.queue = @queue
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later
    -- A join might read all jobs that wait in other queues.
    AND (
        SELECT job.state = 'pending' AND job.kind <> ALL(@kinds::text [])
        FROM /* schema */river_job AS job
        WHERE job.id = limited.job_id
    ) IS TRUE
    AND EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue AND NOT is_shared AND NOT in_order)
    ORDER BY limited.queue, limited.partition_key, limited.priority, limited.due_at, limited.job_id
    LIMIT @limit::integer
),

/* made_available */;

-- name: limit_partition_delete_idle
-- Delete partitions in which nothing ran, waited or was set since an instant, and arrivals and partitions without a limit.
-- A partition is kept that will be opened, or whose bucket of the rate is not full: a new row would have a full one.
WITH arrival AS (
    DELETE FROM /* schema */millhand_limit_arrival AS arrival
    WHERE arrival.queue <> ALL(ARRAY(SELECT queue FROM /* schema */millhand_limit))
    -- The limit may be set again before the leader has freed these jobs.
    AND NOT EXISTS (
        SELECT FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue = arrival.queue
        AND limited.partition_key = arrival.partition_key
        AND limited.admitted_at IS NULL
        AND NOT limited.is_later
    )
),

deleted AS (
    DELETE FROM /* schema */millhand_limit_partition
    WHERE (queue, partition_key) IN (
        SELECT
            partition.queue,
            partition.partition_key
        FROM /* schema */millhand_limit_partition AS partition
        WHERE partition.running = 0
        AND (
            (
                partition.updated_at < @horizon::timestamptz
                AND NOT partition.is_open
                AND partition.opens_at IS NULL
                AND partition.at_once IS NULL
                AND partition.weight = 1
                AND (partition.held_until > now()) IS NOT TRUE
                AND NOT EXISTS (
                    SELECT FROM /* schema */millhand_limit AS limits
                    WHERE limits.queue = partition.queue
                    AND partition.tokens
                    + extract(EPOCH FROM now() - partition.refilled_at)::float8
                    * limits.rate_allowed / nullif(limits.rate_seconds, 0)
                    < limits.rate_burst
                )
            )
            OR (
                partition.queue <> ALL(ARRAY(SELECT queue FROM /* schema */millhand_limit))
                -- As the indexes have them: one of waiting jobs by partition, and one of later jobs by queue.
                AND NOT EXISTS (
                    SELECT FROM /* schema */millhand_limited_job AS limited
                    WHERE limited.queue = partition.queue
                    AND limited.partition_key = partition.partition_key
                    AND limited.admitted_at IS NULL
                    AND NOT limited.is_later
                )
                AND NOT EXISTS (
                    SELECT FROM /* schema */millhand_limited_job AS limited
                    WHERE limited.queue = partition.queue AND limited.is_later
                )
            )
        )
        LIMIT @limit::integer
        FOR UPDATE SKIP LOCKED
    )
    RETURNING partition_key
)

SELECT count(*) FROM deleted;

-- name: limit_partition_get_differing
-- Return partitions whose number of slots does not agree with the jobs that have slots, which would be a fault.
WITH actual AS MATERIALIZED (
    SELECT
        queue,
        partition_key,
        count(*)::integer AS running
    FROM /* schema */millhand_limited_job
    WHERE admitted_at IS NOT NULL
    GROUP BY queue, partition_key
),

differing AS MATERIALIZED (
    SELECT
        partition.queue,
        partition.partition_key
    FROM /* schema */millhand_limit_partition AS partition
    LEFT JOIN actual
        ON actual.queue = partition.queue AND actual.partition_key = partition.partition_key
    WHERE partition.running <> coalesce(actual.running, 0)
)

SELECT
    queue,
    partition_key
FROM differing
ORDER BY queue, partition_key
LIMIT @limit::integer;

-- name: limit_partition_correct
-- Correct the number of slots of one partition, in a transaction that has locked it.
UPDATE /* schema */millhand_limit_partition AS partition
SET
    running = actual.running,
    is_open = partition.opens_at IS NULL,
    opened = partition.opened + 1
FROM (
    SELECT count(*)::integer AS running
    FROM /* schema */millhand_limited_job
    WHERE queue = @queue AND partition_key = @partition_key AND admitted_at IS NOT NULL
) AS actual
WHERE partition.queue = @queue
AND partition.partition_key = @partition_key
AND partition.running <> actual.running
RETURNING partition.running;

-- name: limit_partition_lock
-- Lock one partition.
SELECT running
FROM /* schema */millhand_limit_partition
WHERE queue = @queue AND partition_key = @partition_key
FOR UPDATE;

-- name: limit_lock_totals
-- Lock the limits that have a total.
SELECT queue
FROM /* schema */millhand_limit
WHERE total IS NOT NULL
ORDER BY queue
FOR UPDATE;

-- name: limit_correct_totals
-- Correct the numbers of slots of limits that have a total, in a transaction that has locked them.
UPDATE /* schema */millhand_limit AS limits
SET num_running = actual.running
FROM (
    SELECT
        counted.queue,
        (
            SELECT count(*)
            FROM /* schema */millhand_limited_job AS limited
            WHERE limited.queue = counted.queue AND limited.admitted_at IS NOT NULL
        )::integer AS running
    FROM /* schema */millhand_limit AS counted
    WHERE counted.total IS NOT NULL
) AS actual
WHERE limits.queue = actual.queue
AND limits.num_running <> actual.running
RETURNING limits.queue;
