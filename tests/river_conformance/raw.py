"""Methods that read and change tables beside River's rules: stored texts, forced states, cut connections."""

from __future__ import annotations

import json

import msgspec
from msgspec import UNSET

from millhand.core.errors import NotFound
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, PRIORITY_DEFAULT, QUEUE_DEFAULT
from millhand.core.job import JobId
from millhand.engine.store.job import job_get_by_id
from river_conformance import params as p
from river_conformance.normalized import Normalized, normalized_job
from river_conformance.protocol import ErrorCode, RpcError
from river_conformance.session import Session

JOB_ROW = """
SELECT
    args::text, attempted_at::text, attempted_by::text, created_at::text, errors::text, finalized_at::text,
    NULL AS jsonb, metadata::text, scheduled_at::text, tags::text,
    upper(encode(unique_key, 'hex')) AS unique_key, NULL AS unique_key_type,
    unique_states::text, NULL AS unique_states_type
FROM river_job
WHERE id = $1
"""
TIMESTAMPS = "SELECT created_at::text, scheduled_at::text FROM river_job WHERE id = $1"
FINALIZE = """
UPDATE river_job
SET
    state = $2::text::river_job_state, finalized_at = now(), metadata = metadata || $3::text::jsonb,
    errors = CASE WHEN $2::text = 'discarded' THEN array_append(errors, $4::text::jsonb) ELSE errors END
WHERE id = $1 AND state = 'running'
RETURNING id
"""
# The error of a job that is discarded by force. The suite compares it.
EXTERNAL_ERROR = (
    '{"at": "2026-02-03T04:05:06.789Z", "attempt": 1, "error": "external discard", "trace": "external trace"}'
)
INSERT_EXACT = """
INSERT INTO river_job (id, args, kind, max_attempts, metadata)
VALUES (
    coalesce($1::bigint, nextval(pg_get_serial_sequence('river_job', 'id'))),
    $2::text::jsonb, 'conformance_exact_json', 25, $3::text::jsonb
)
RETURNING id
"""
EXACT_ARGS = (
    '{"decimal": 0.12345678901234567890123456789, "integer": 9223372036854775807, '
    '"negative": -9223372036854775808}'
)
EXACT_METADATA = ("big_integer", "beyond_float", "long_decimal")
EXACT_NUMBERS = ("decimal", "integer", "negative")
EXACT_JSON = "SELECT args::text, metadata::text FROM river_job WHERE id = $1"
INSERT_FULL_ROW = """
INSERT INTO river_job (
    args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata,
    priority, queue, scheduled_at, state, tags, unique_key, unique_states
)
VALUES (
    '{"nested": {"enabled": true}, "values": [1, "two", null]}', 3, '2026-01-02T03:04:06.123456Z',
    ARRAY['go-client', 'candidate-client'], '2026-01-02T03:04:05.6789Z', ARRAY[$1::text::jsonb],
    '2026-01-02T03:04:07.000001Z', 'conformance_full_row', 4,
    '{"output": {"ok": true}, "river:rescue_count": 2, "user": "metadata"}', 2, 'priority_jobs',
    '2026-01-02T03:04:05.999999Z', 'discarded', ARRAY['alpha_tag', 'beta_tag'],
    decode(repeat('ab', 32), 'hex'), B'11110101'
)
RETURNING id
"""
FULL_ROW_ERROR = (
    '{"at": "2026-01-02T03:04:06.123456Z", "attempt": 3, "error": "worker failed: escaped \\"detail\\"", '
    '"trace": "frame one\\nframe two"}'
)
INSERT_NO_NOTIFY = """
INSERT INTO river_job (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
VALUES (
    $1::text::jsonb, $2, $3, $4::text::jsonb, $5, $6, coalesce($7, now()), $8::text::river_job_state, $9
)
RETURNING id
"""
COUNT_CONNECTIONS = """
SELECT count(*) AS count
FROM pg_stat_activity
WHERE application_name = current_setting('application_name') AND datname = current_database()
"""
CUT_CONNECTIONS = """
SELECT count(pg_terminate_backend(pid)) AS count
FROM pg_stat_activity
WHERE application_name = $1::text AND datname = current_database() AND pid <> pg_backend_pid()
"""
EXPIRE_LEADER = "UPDATE river_leader SET expires_at = now() - interval '1 second'"


async def raw_job_row(session: Session, params: p.JobParams) -> Normalized:
    """Return a job's columns as PostgreSQL prints them."""
    return await _one(session, JOB_ROW, params.id)


async def raw_job_timestamps(session: Session, params: p.JobParams) -> Normalized:
    """Return a job's instants as PostgreSQL prints them."""
    return await _one(session, TIMESTAMPS, params.id)


async def raw_finalize(session: Session, params: p.FinalizeParams) -> Normalized:
    """Finalize a running job as another client may, while its worker runs."""
    pool = (await session.client()).driver.pool
    metadata = "{}" if params.metadata is UNSET else _text(params.metadata)
    written = await pool.fetch(FINALIZE, [params.id, params.state, metadata, EXTERNAL_ERROR])
    job = await pool.run(job_get_by_id(JobId(params.id)))
    if not written:
        raise RpcError(ErrorCode.REJECTED, f"job {params.id} must be running, got {job.state}")
    return normalized_job(job)


async def raw_insert_exact_json(session: Session, params: p.ExactJsonParams) -> Normalized:
    """Insert a job whose args have numbers that only a decimal type holds."""
    metadata = "{}" if params.metadata_json is UNSET else params.metadata_json
    id = None if params.id is UNSET else params.id
    return {"id": await _insert(session, INSERT_EXACT, id, EXACT_ARGS, metadata)}


async def raw_job_exact_json(session: Session, params: p.JobParams) -> Normalized:
    """Return the numbers of such a job as they are stored, those of its metadata too."""
    row = await _one(session, EXACT_JSON, params.id)
    args, metadata = (
        json.loads(str(row[name]), parse_float=str, parse_int=str) for name in ("args", "metadata")
    )
    numbers = {name: metadata[name] for name in EXACT_METADATA if name in metadata}
    return {name: args[name] for name in EXACT_NUMBERS} | numbers


async def raw_insert_full_row(session: Session, params: p.Params) -> Normalized:
    """Insert a row with a value in each column."""
    return await _inserted(session, INSERT_FULL_ROW, FULL_ROW_ERROR)


async def raw_insert_no_notify(session: Session, params: p.NoNotifyParams) -> Normalized:
    """Insert a job of any kind without a notification. Its options must not be unique."""
    opts = params.opts
    if opts.unique is not UNSET:
        raise RpcError(ErrorCode.UNSUPPORTED, "opts of a job without a notification must not be unique")
    args = {"behavior": params.behavior, "duration_ms": params.duration_ms, "message": params.message}
    scheduled_at = None if opts.scheduled_at is UNSET else opts.scheduled_at
    state = "scheduled" if scheduled_at is not None else "pending" if opts.pending else "available"
    return await _inserted(
        session,
        INSERT_NO_NOTIFY,
        _text(args),
        params.kind,
        MAX_ATTEMPTS_DEFAULT if opts.max_attempts is UNSET else opts.max_attempts,
        "{}" if opts.metadata is UNSET else _text(opts.metadata),
        opts.priority or PRIORITY_DEFAULT,
        opts.queue or QUEUE_DEFAULT,
        scheduled_at,
        state,
        [] if opts.tags is UNSET else opts.tags,
    )


async def connection_count(session: Session, params: p.Params) -> Normalized:
    """Return the number of the adapter's connections."""
    return await _count(session, COUNT_CONNECTIONS)


async def fault_disconnect_application(session: Session, params: p.ApplicationParams) -> Normalized:
    """Cut the connections of one adapter, except for that of this request, and return how many."""
    return await _count(session, CUT_CONNECTIONS, params.application_name)


async def fault_expire_leader(session: Session, params: p.Params) -> Normalized:
    """Let the leader's term end now."""
    await (await session.client()).driver.pool.fetch(EXPIRE_LEADER)
    return {}


async def _insert(session: Session, sql: str, *values: object) -> int:
    rows = await (await session.client()).driver.pool.fetch(sql, values)
    id: int = rows[0]["id"]
    return id


async def _inserted(session: Session, sql: str, *values: object) -> Normalized:
    id = await _insert(session, sql, *values)
    return normalized_job(await (await session.client()).driver.pool.run(job_get_by_id(JobId(id))))


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def _one(session: Session, sql: str, id: int) -> Normalized:
    rows = await (await session.client()).driver.pool.fetch(sql, [id])
    if not rows:
        raise NotFound("job", id)
    return dict(rows[0])


async def _count(session: Session, sql: str, *params: str) -> Normalized:
    rows = await (await session.client()).driver.pool.fetch(sql, list(params))
    return {"count": rows[0]["count"]}
