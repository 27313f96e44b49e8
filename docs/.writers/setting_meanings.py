"""
What each setting means, for docs/reference/settings.md.

Tests compare the names with those of `settings.catalog`, and with the fields of a limit.
"""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "database.schema": "the schema of River's tables; empty for the search path",
    "database.pool_size": "the maximum number of connections",
    "database.embedded": "if `DATABASE_URL` is not set, start and migrate an embedded PostgreSQL in `.millhand/postgres`",
    "worker.queues": "the queues to work, each with its maximum of running jobs: a number, or a table with `max_workers`, "
    "`fetch_cooldown`, `fetch_poll_interval`, `keep_completed` and [`limit`](#workerqueuesnamelimit)",
    "worker.client_id": "the client's id; made from host name and time if empty",
    "worker.job_timeout": "the maximum duration of an attempt, unless its worker sets one",
    "worker.soft_stop_timeout": "how long a stop waits for running jobs before it interrupts them",
    "worker.max_attempts": "the maximum number of attempts of a job, unless its insert sets one",
    "worker.max_threads": "how many plain functions run at the same time, each in a thread",
    "worker.fetch_poll_interval": "how often a queue is polled without a notification",
    "worker.fetch_cooldown": "the shortest time between two fetches of a queue",
    "worker.fetch_only_known_kinds": "leave jobs of kinds that this worker does not know to other workers",
    "worker.poll_only": "poll instead of using LISTEN, for connection poolers that do not support it",
    "worker.leader_election": "take part in the election of the leader, which runs maintenance for all clients",
    "worker.prefer_other_leaders": "let clients in other languages become leader first, so that their "
    "periodic jobs continue",
    "worker.client_heartbeat_interval": "how often this client writes its heartbeat; after two missed ones "
    "it may be declared dead",
    "worker.job_stuck_threshold": "how long past its timeout an attempt counts as stuck",
    "worker.rescue_stuck_jobs_after": "how long an attempt of a client without heartbeats may run before "
    "its rescue; `none` means "
    "one hour, or one hour more than a changed `job_timeout`",
    "worker.skip_unknown_job_check": "allow inserts of kinds that have no worker here",
    "worker.keep_completed": "keep the rows of completed jobs; with `false`, jobs are deleted when they complete, see "
    "[Delete completed jobs](../how_to/delete_completed_jobs.md)",
    "worker.completed_job_retention": "how long completed jobs are kept",
    "worker.cancelled_job_retention": "how long cancelled jobs are kept",
    "worker.discarded_job_retention": "how long discarded jobs are kept",
    "worker.dead_job_retention": "how long [dead letters](../how_to/keep_dead_letters.md), the copies of discarded "
    "jobs, are kept; `0s` makes none",
    "worker.reindexer_index_names": "the indexes that are rebuilt every night",
    "worker.reindexer_timeout": "the maximum duration of rebuilding one index",
    "heartbeat.enabled": "run the built-in heartbeat; with `--until-empty`, false unless it is set",
    "heartbeat.interval": "the interval of the heartbeat job",
    "orphans.enabled": "run the built-in orphan cleanup; with `MODULE:CONFIG`, false unless `[orphans]` has a setting",
    "orphans.interval": "the interval of the cleanup job",
    "orphans.sources": "the tables or queries whose rows reference objects, see below",
    "orphans.mode": "`report` only reports, `quarantine` moves objects aside, "
    "`delete` also deletes them after `quarantine_for`",
    "orphans.prefix": "check only objects whose key starts with this; empty, or ending with `/`",
    "orphans.exclude": "prefixes that are not checked, each ending with `/`",
    "orphans.key_patterns": "regular expressions; an object whose key matches none is kept and counted as unclassified",
    "orphans.derived": "patterns of derived keys, `variants/{key}/*`: a derived object lives as long as a "
    "row references its parent",
    "orphans.canaries": "keys that are known to be live; a run that does not find them aborts",
    "orphans.not_references": "`table`, `table.column` or `schema.*` that may mention keys without being references, "
    "such as audit logs; the search for undeclared references leaves them out",
    "orphans.mentions": "`table`, `table.column` or `schema.*` with text that may mention keys, such as HTML: "
    "the search keeps each object whose key it finds there",
    "orphans.unsearched": "`table`, `table.column` or `schema.*` that the search may leave out if it cannot read them; "
    "without this, a run removes nothing",
    "orphans.grace": "how long an object or a row must be an orphan before a run removes it",
    "orphans.retention": "how long soft-deleted rows and their objects are kept",
    "orphans.quarantine_for": "how long a removed object can be restored",
    "orphans.allow_short_grace": "allow a grace of less than an hour",
    "orphans.max_share": "the share of all objects, and of all bytes, that one run may remove",
    "orphans.max_objects": "how many objects one run may remove",
    "orphans.max_keys_per_second": "the maximum rate of removals",
    "orphans.min_overlap": "the share of referenced objects that must exist; otherwise the run aborts",
    "orphans.max_clock_skew": "how far the clocks of database, store and worker may differ",
    "orphans.page_size": "how many objects are read at a time",
    "orphans.partitions": "how many partitions of a bucket on a server are listed in parallel",
    "orphans.split_at": "keys at which the bucket is divided, instead of those from the statistics of the largest table",
    "orphans.source_timeout": "the maximum duration of a source's query",
    "orphans.search_timeout": "the maximum duration of a search for undeclared references; "
    "a run whose search takes longer removes nothing",
    "orphans.inventory": "the folder of an S3 Inventory configuration, `s3://reports/…`, to read instead of "
    "listing the bucket",
    "orphans.inventory_memory": "how much memory the comparison of an inventory with the rows may use, such as `500MB`",
    "orphans.inventory_directory": "where the comparison of an inventory keeps the report, the rows and what exceeds its "
    "memory; without it, the directory for temporary files",
    "orphans.price_per_gb": "the price of a gigabyte per month, in your currency, for the cost in the report",
    "storage.url": "the object store: `file:./directory` or `s3://bucket/prefix`; `millhand orphans` requires it",
    "archive.url": "where finished jobs are archived: `s3://bucket/prefix` or `file:./directory`; empty: nowhere; "
    "each database needs its own",
    "archive.format": "`parquet`, which needs `millhand[inventory]`, or `jsonl` for gzipped lines of JSON",
    "archive.every": "the time between two passes of the leader",
    "archive.keep": "how long files are kept after their last job finished; `none` for ever",
    "archive.max_delay": "how long finished jobs are kept in the table while the archive cannot be written; then they are "
    "deleted without a copy",
    "web.host": "the address on which `millhand web` listens; any other than `127.0.0.1` requires a user",
    "web.port": "the port on which it listens",
    "web.prefix": "the path at which a reverse proxy serves the page, such as `/jobs`; the proxy removes it from requests",
    "web.name": "what the page calls the database; empty: the name in its URL",
    "web.databases": "several databases instead of the one of `DATABASE_URL`: `url_variable`, `color` and `schema` of each "
    "name, see [the web page](../how_to/web_page.md#several-databases)",
    "web.users": "who may log in: `password`, `token`, `role`, `queues`, `kinds` and `databases` of each name, "
    "see [the web page](../how_to/web_page.md)",
    "web.proxy_header": "the header in which a trusted proxy names the user",
    "web.proxy_networks": "the networks of trusted proxies, such as `10.0.0.0/8`",
    "web.hide": "values that the page never shows, such as `args.password` or `args.**.token`",
    "web.views": 'searches of jobs by name, to which the list of jobs links, such as `failed = "state:discarded"`',
    "web.time_zone": "the zone of times and of searches, such as `Europe/Berlin`; without it, the zone of the browser",
    "observe.listen": "where to answer probes and `/metrics`: `:9464`, `127.0.0.1:9464` or `[::1]:9464`; empty: nowhere",
    "observe.file": "a file that the worker touches every ten seconds while it is live; empty: none",
    "observe.live_after": "how long the event loop may hang before `/livez` fails",
    "log.format": "`text`, `json`, or `auto`: text on a terminal, JSON in a pipe",
    "log.level": "the lowest level that is logged",
    "log.schema": "the keys of JSON: `millhand`, `ecs` (Elastic), `otel` (OpenTelemetry) or `gcp` (Google Cloud), "
    "see [the log](log.md#schemas)",
    "log.completed_jobs": "log `job completed` with its duration at level `info`, for each job; with `false`, at `debug`; "
    "it overrides `log_completed_jobs` of a `Config`",
    "otel.enabled": "send traces of inserts and attempts, see [Trace jobs](../how_to/traces.md)",
    "otel.propagation": "how an attempt belongs to its insert: `link` to it, `child` of it, or `none`",
    "otel.style": "names of spans and attributes: `semconv`, or `otelriver` as River's middleware for Go",
}

LIMIT_MEANINGS: Mapping[str, str] = {
    "at_once": "how many jobs of a partition run at once",
    "at_once_per_client": "how many jobs of a partition run at once in one client",
    "total": "how many jobs of all partitions run at once",
    "by_args": "the fields of the args that make a partition, such as `tenant_id`",
    "by_kind": "whether each kind is a partition, or each kind and values of `by_args`",
    "rate": "how many jobs of a partition start in a time",
    "rate.allowed": "how many jobs start in each `per`",
    "rate.per": "the time",
    "rate.burst": "how many jobs may start at once after a pause",
    "in_order": "run the jobs of a partition one after the other, by id; a job that fails keeps its slot "
    "until its last attempt",
    "halt": "start no further job of a partition after one that failed finally, until a person resumes it or retries "
    "that job; requires `in_order`",
    "shared": "workers in Go work the queue too; requires `at_once`",
    "note": "a line for people, such as why the limit is as it is; the web page and `millhand limit show` show it",
}
