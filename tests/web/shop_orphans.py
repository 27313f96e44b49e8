"""What the orphan cleanup of the invented shop found and did: a ledger in which each panel of its page has rows."""

from __future__ import annotations

from millhand.db.driver.protocol import Executor

STORE = "s3://shop-media/"
RULES = """
(12, 'orphan', 'none', 340, ''), (15, 'orphan', 'none', 12, ''), (22, 'upload', 'none', 3, ''),
(11, 'orphan', 'none', 190, ''), (3, 'waiting', 'pending', 25, ''), (18, 'missing', 'ready', 2, ''),
(24, 'near_match', 'none', 4, 'near ''invoices/4711.PDF'' of orders.invoice_key')
"""
LEDGER = f"""
INSERT INTO /* schema */millhand_orphan_run (
    bucket, mode, fingerprint, state, started_at, heartbeat_at, scanned_at, finished_at, totals, abort_reasons, error
)
SELECT
    '{STORE}', 'delete', 'f', state, at, at + interval '4 min', at, at + interval '4 min',
    jsonb_build_object(
        'objects', 48213 - n, 'rows_of', jsonb_build_object('orders', 47100 - n), 'due', n % 7 * 40,
        'removed', CASE state WHEN 'completed' THEN n % 7 * 40 ELSE 0 END, 'kept', n % 3
    ),
    CASE state WHEN 'aborted' THEN ARRAY['objects to remove must be at most 482, got 340 objects and 210 rows; '
        'check the sources, then run: millhand orphans run --max-objects 600'] ELSE '{{}}' END,
    CASE state WHEN 'failed' THEN 'StoreError: store must answer, got 503 SlowDown; it is tried again' END
FROM generate_series(1, 30) AS n,
LATERAL (SELECT
    now() - (30 - n) * interval '1 h' - interval '12 min' AS at,
    CASE n WHEN 27 THEN 'failed' WHEN 29 THEN 'aborted' ELSE 'completed' END AS state
) AS run;
INSERT INTO /* schema */millhand_orphan_finding (
    bucket, key, source, row_id, kind, reference, rule, is_present, size, first_seen_at, last_seen_at, sightings, run_id,
    note
)
SELECT
    '{STORE}', CASE WHEN rule = 24 THEN 'invoices/' ELSE 'uploads/2026/' END || md5(rule::text || n) || '.pdf',
    CASE WHEN reference = 'none' THEN '' ELSE 'orders' END, CASE WHEN reference = 'none' THEN '' ELSE n::text END,
    kind, reference, rule, rule <> 18, n * 7919 % 900000, now() - n % 200 * interval '1 h',
    now() - interval '12 min', n % 200,
    (SELECT max(id) FROM /* schema */millhand_orphan_run), note
FROM (VALUES {RULES}) AS rules (rule, kind, reference, number, note), generate_series(1, number) AS n;
INSERT INTO /* schema */millhand_orphan_action (
    run_id, bucket, key, rule, state, reason, size, quarantine_key, source, row_id, row_json, created_at, updated_at, alert,
    alerted_at
)
SELECT
    (SELECT min(id) FROM /* schema */millhand_orphan_run) + n / 10, '{STORE}', 'invoices/' || 4710 + n || '.pdf',
    CASE WHEN n % 4 = 0 THEN 7 ELSE 12 END, CASE WHEN n = 9 THEN 'restored' ELSE 'quarantined' END, '', n * 31337 % 4000000,
    '.millhand/quarantine/7/invoices/' || 4710 + n || '.pdf', CASE WHEN n % 4 = 0 THEN 'orders' ELSE '' END,
    CASE WHEN n % 4 = 0 THEN n::text ELSE '' END, CASE WHEN n % 4 = 0 THEN '{{}}'::jsonb END,
    now() - (150 - n) * interval '1 h', now() - (150 - n) * interval '1 h',
    CASE WHEN n = 9 THEN 'a row references it again; it was restored' END, CASE WHEN n = 9 THEN now() - interval '2 h' END
FROM generate_series(1, 90) AS n;
INSERT INTO /* schema */millhand_orphan_binding (bucket, token, database, generation, bound_at, searched_at, search_seconds)
VALUES ('{STORE}', 'token', 'shop', 30, now() - interval '90 d', now() - interval '12 min', 41.5);
"""


async def fill_orphans(executor: Executor) -> None:
    """Fill the empty tables of the ledger."""
    await executor.execute_script(LEDGER)
