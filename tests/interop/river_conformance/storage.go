package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// Queues.

func queueGet(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	return answeredQueue(pick(at, at.client.QueueGet, at.client.QueueGetTx)(ctx, p.Name))
}

func queueList(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	listed := river.NewQueueListParams()
	if p.Limit > 0 {
		listed = listed.First(p.Limit)
	}
	result, err := pick(at, at.client.QueueList, at.client.QueueListTx)(ctx, listed)
	if err != nil {
		return nil, err
	}
	queues := make([]map[string]any, len(result.Queues))
	for i, queue := range result.Queues {
		queues[i] = normalizedQueue(queue)
	}
	return map[string]any{"queues": queues}, nil
}

func queuePause(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	if at.tx == nil {
		return nil, at.client.QueuePause(ctx, p.Name, nil)
	}
	return nil, at.client.QueuePauseTx(ctx, at.tx, p.Name, nil)
}

func queueResume(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	if at.tx == nil {
		return nil, at.client.QueueResume(ctx, p.Name, nil)
	}
	return nil, at.client.QueueResumeTx(ctx, at.tx, p.Name, nil)
}

func queueUpdate(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	changed := &river.QueueUpdateParams{Metadata: p.Metadata}
	if at.tx == nil {
		return answeredQueue(at.client.QueueUpdate(ctx, p.Name, changed))
	}
	return answeredQueue(at.client.QueueUpdateTx(ctx, at.tx, p.Name, changed))
}

func answeredQueue(queue *rivertype.Queue, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return normalizedQueue(queue), nil
}

func normalizedQueue(queue *rivertype.Queue) map[string]any {
	return map[string]any{
		"created_at": queue.CreatedAt.UTC(), "metadata": json.RawMessage(queue.Metadata), "name": queue.Name,
		"paused_at": utc(queue.PausedAt), "updated_at": queue.UpdatedAt.UTC(),
	}
}

// Transactions.

func txBegin(ctx context.Context, a *adapter, p *params) (any, error) {
	if _, ok := a.txs[p.Handle]; ok {
		return nil, coded(codeRejected, "handle must not be in use, got %q", p.Handle)
	}
	tx, err := a.pool.Begin(ctx)
	if err == nil {
		a.txs[p.Handle] = tx
	}
	return nil, err
}

func txCommit(ctx context.Context, a *adapter, p *params) (any, error) {
	tx, err := a.tx(p.Handle)
	if err != nil {
		return nil, err
	}
	delete(a.txs, p.Handle)
	return nil, tx.Commit(ctx)
}

func txRollback(ctx context.Context, a *adapter, p *params) (any, error) {
	tx, err := a.tx(p.Handle)
	if err != nil {
		return nil, err
	}
	delete(a.txs, p.Handle)
	return nil, tx.Rollback(ctx)
}

func txFail(ctx context.Context, a *adapter, p *params) (any, error) {
	tx, err := a.tx(p.Handle)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "SELECT 1 / 0")
	return nil, err
}

// The schema.

func migrate(ctx context.Context, a *adapter, p *params) (any, error) {
	if p.Schema != "" {
		if _, err := a.pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{p.Schema}.Sanitize()); err != nil {
			return nil, err
		}
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(a.pool), &rivermigrate.Config{Logger: quiet(), Schema: p.Schema})
	if err != nil {
		return nil, err
	}
	direction := rivermigrate.DirectionUp
	if p.Direction == "down" {
		direction = rivermigrate.DirectionDown
	}
	opts := &rivermigrate.MigrateOpts{DryRun: p.DryRun, MaxSteps: p.MaxSteps, TargetVersion: p.TargetVersion}
	done, err := migrator.Migrate(ctx, direction, opts)
	if err != nil {
		return nil, err
	}
	existing, err := migrator.ExistingVersions(ctx)
	if err != nil {
		return nil, err
	}
	valid, err := migrator.Validate(ctx, nil)
	if err != nil {
		return nil, err
	}
	applied, found := []int{}, []int{}
	for _, one := range done.Versions {
		applied = append(applied, one.Version)
	}
	for _, one := range existing {
		found = append(found, one.Version)
	}
	return map[string]any{"applied": applied, "existing": found, "valid": valid.OK}, nil
}

const namesOfTables = `
SELECT string_agg(format('%I.%I', schemaname, tablename), ', ')
FROM pg_tables
WHERE schemaname = coalesce(nullif($1, ''), current_schema())
AND (tablename LIKE 'river\_%' OR tablename LIKE 'millhand\_%') AND tablename <> 'river_migration'`

func reset(ctx context.Context, a *adapter, p *params) (any, error) {
	var names string
	if err := a.pool.QueryRow(ctx, namesOfTables, p.Schema).Scan(&names); err != nil {
		return nil, err
	}
	_, err := a.pool.Exec(ctx, "TRUNCATE "+names)
	return nil, err
}

func leader(ctx context.Context, a *adapter, _ *params) (any, error) {
	var electedAt time.Time
	var leaderID string
	err := a.pool.QueryRow(ctx, "SELECT elected_at, leader_id FROM river_leader").Scan(&electedAt, &leaderID)
	if errors.Is(err, pgx.ErrNoRows) {
		return map[string]any{"elected_at": nil, "leader_id": nil}, nil
	}
	return map[string]any{"elected_at": electedAt.UTC(), "leader_id": leaderID}, err
}

func requestResign(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	if at.tx == nil {
		return nil, at.client.Notify().RequestResign(ctx)
	}
	return nil, at.client.Notify().RequestResignTx(ctx, at.tx)
}

// Tables beside River's rules.

const (
	connections = "FROM pg_stat_activity WHERE datname = current_database() AND "
	ownName     = "application_name = current_setting('application_name')"
	jobRow      = `
SELECT args::text, attempted_at::text, attempted_by::text, created_at::text, errors::text, finalized_at::text,
	NULL AS jsonb, metadata::text, scheduled_at::text, tags::text, upper(encode(unique_key, 'hex')) AS unique_key,
	NULL AS unique_key_type, unique_states::text, NULL AS unique_states_type
FROM river_job WHERE id = $1`
	finalize = `
UPDATE river_job SET state = $2::text::river_job_state, finalized_at = now(), metadata = metadata || $3::text::jsonb,
	errors = CASE WHEN $2::text = 'discarded' THEN array_append(errors,
		'{"at": "2026-02-03T04:05:06.789Z", "attempt": 1, "error": "external discard", "trace": "external trace"}'::jsonb)
		ELSE errors END
WHERE id = $1 AND state = 'running'`
	insertExact = `
INSERT INTO river_job (id, args, kind, max_attempts, metadata)
VALUES (coalesce(nullif($1::bigint, 0), nextval(pg_get_serial_sequence('river_job', 'id'))),
	'{"decimal": 0.12345678901234567890123456789, "integer": 9223372036854775807, "negative": -9223372036854775808}',
	'conformance_exact_json', 25, $2::text::jsonb)
RETURNING id`
	insertFullRow = `
INSERT INTO river_job (args, attempt, attempted_at, attempted_by, created_at, errors, finalized_at, kind, max_attempts, metadata,
	priority, queue, scheduled_at, state, tags, unique_key, unique_states)
VALUES ('{"nested": {"enabled": true}, "values": [1, "two", null]}', 3, '2026-01-02T03:04:06.123456Z',
	ARRAY['go-client', 'candidate-client'], '2026-01-02T03:04:05.6789Z',
	ARRAY['{"at": "2026-01-02T03:04:06.123456Z", "attempt": 3, "error": "worker failed: escaped \"detail\"", "trace": "frame one\nframe two"}'::jsonb],
	'2026-01-02T03:04:07.000001Z', 'conformance_full_row', 4,
	'{"output": {"ok": true}, "river:rescue_count": 2, "user": "metadata"}', 2, 'priority_jobs',
	'2026-01-02T03:04:05.999999Z', 'discarded', ARRAY['alpha_tag', 'beta_tag'], decode(repeat('ab', 32), 'hex'), B'11110101')
RETURNING id`
	insertQuietly = `
INSERT INTO river_job (args, kind, max_attempts, metadata, priority, queue, tags)
VALUES ($1::text::jsonb, $2, $3, $4::text::jsonb, $5, $6, $7) RETURNING id`
)

// row returns the first row of a query by its columns, or what to return without one.
func (a *adapter) row(ctx context.Context, sql string, without map[string]any, values ...any) (any, error) {
	rows, err := a.pool.Query(ctx, sql, values...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return found[0], nil
	}
	if without == nil {
		return nil, rivertype.ErrNotFound
	}
	return without, nil
}

// inserted runs an insert and returns the job.
func (a *adapter) inserted(ctx context.Context, sql string, values ...any) (any, error) {
	var id int64
	if err := a.pool.QueryRow(ctx, sql, values...).Scan(&id); err != nil {
		return nil, err
	}
	return get(ctx, a, &params{ID: id})
}

func rawJobRow(ctx context.Context, a *adapter, p *params) (any, error) {
	return a.row(ctx, jobRow, nil, p.ID)
}

func rawJobTimestamps(ctx context.Context, a *adapter, p *params) (any, error) {
	return a.row(ctx, "SELECT created_at::text, scheduled_at::text FROM river_job WHERE id = $1", nil, p.ID)
}

func rawFinalize(ctx context.Context, a *adapter, p *params) (any, error) {
	metadata := "{}"
	if len(p.Metadata) > 0 {
		metadata = string(p.Metadata)
	}
	done, err := a.pool.Exec(ctx, finalize, p.ID, p.State, metadata)
	if err == nil && done.RowsAffected() == 0 {
		err = errors.New("job must be running")
	}
	if err != nil {
		return nil, err
	}
	return get(ctx, a, p)
}

func rawInsertExactJSON(ctx context.Context, a *adapter, p *params) (any, error) {
	metadata := "{}"
	if p.MetadataJSON != "" {
		metadata = p.MetadataJSON
	}
	var id int64
	err := a.pool.QueryRow(ctx, insertExact, p.ID, metadata).Scan(&id)
	return map[string]any{"id": id}, err
}

// rawJobExactJSON returns numbers as River's row has them.
func rawJobExactJSON(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	job, err := at.client.JobGet(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	var args, metadata map[string]json.RawMessage
	if err := json.Unmarshal(job.EncodedArgs, &args); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(job.Metadata, &metadata); err != nil {
		return nil, err
	}
	numbers := map[string]any{}
	for _, name := range []string{"decimal", "integer", "negative"} {
		numbers[name] = string(args[name])
	}
	for _, name := range []string{"big_integer", "beyond_float", "long_decimal"} {
		if number, ok := metadata[name]; ok {
			numbers[name] = string(number)
		}
	}
	return numbers, nil
}

func rawInsertFullRow(ctx context.Context, a *adapter, _ *params) (any, error) {
	return a.inserted(ctx, insertFullRow)
}

func rawInsertNoNotify(ctx context.Context, a *adapter, p *params) (any, error) {
	args, err := json.Marshal(p.args())
	if err != nil {
		return nil, err
	}
	kind, metadata, queue := p.Kind, "{}", p.Opts.Queue
	if kind == "" {
		kind = echoArgs{}.Kind()
	}
	if len(p.Opts.Metadata) > 0 {
		metadata = string(p.Opts.Metadata)
	}
	if queue == "" {
		queue = river.QueueDefault
	}
	return a.inserted(ctx, insertQuietly, string(args), kind, cmp.Or(p.Opts.MaxAttempts, river.MaxAttemptsDefault), metadata,
		cmp.Or(p.Opts.Priority, river.PriorityDefault), queue, texts(p.Opts.Tags))
}

func connectionCount(ctx context.Context, a *adapter, _ *params) (any, error) {
	return a.row(ctx, "SELECT count(*) AS count "+connections+ownName, nil)
}

func listenerCount(ctx context.Context, a *adapter, _ *params) (any, error) {
	return a.row(ctx, "SELECT count(*) AS count "+connections+ownName+" AND query ILIKE 'LISTEN%'", nil)
}

func disconnectListeners(ctx context.Context, a *adapter, _ *params) (any, error) {
	return a.row(ctx, "SELECT count(pg_terminate_backend(pid)) AS count "+connections+ownName+" AND query ILIKE 'LISTEN%'", nil)
}

func disconnectApplication(ctx context.Context, a *adapter, p *params) (any, error) {
	return a.row(ctx, "SELECT count(pg_terminate_backend(pid)) AS count "+connections+"application_name = $1 AND pid <> pg_backend_pid()",
		nil, p.ApplicationName)
}

func expireLeader(ctx context.Context, a *adapter, _ *params) (any, error) {
	_, err := a.pool.Exec(ctx, "UPDATE river_leader SET expires_at = now() - interval '1 second'")
	return nil, err
}
