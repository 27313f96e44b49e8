package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// operations are what this program can be asked for.
var operations = map[string]func(ctx context.Context, p *program, line []byte) (any, error){
	"add_queue":       with(addQueue),
	"begin":           with(begin),
	"cancel":          with(onJob((*river.Client[pgx.Tx]).JobCancel)),
	"cancel_tx":       with(cancelTx),
	"chaos":           startChaos,
	"delete":          with(onJob((*river.Client[pgx.Tx]).JobDelete)),
	"encode":          with(encode),
	"end":             with(end),
	"executed":        with(executedBy),
	"get":             with(onJob((*river.Client[pgx.Tx]).JobGet)),
	"insert":          with(insert),
	"insert_measured": insertMeasured,
	"list":            with(list),
	"migrate":         with(migrate),
	"moments":         startMoments,
	"moments_insert":  with(insertMoments),
	"pause":           with(pause),
	"queue":           with(queueGet),
	"release":         with(release),
	"remove_queue":    with(removeQueue),
	"resign":          with(requestResign),
	"resume":          with(resume),
	"retry":           with(onJob((*river.Client[pgx.Tx]).JobRetry)),
	"start":           startClient,
	"stop":            stopClient,
	"unique":          with(unique),
	"validate":        with(validate),
	"versions":        with(versions),
}

// params are the parameters of all operations; each reads its own.
type params struct {
	After      string      `json:"after"`
	Cases      []insertJob `json:"cases"`
	Commit     bool        `json:"commit"`
	Descending bool        `json:"descending"`
	Direction  string      `json:"direction"`
	Fast       bool        `json:"fast"`
	ID         string      `json:"id"`
	Job        int64       `json:"job"`
	Jobs       []insertJob `json:"jobs"`
	Limit      int         `json:"limit"`
	MaxSteps   int         `json:"max_steps"`
	Now        *time.Time  `json:"now"`
	OrderBy    string      `json:"order_by"`
	Queue      string      `json:"queue"`
	Schema     string      `json:"schema"`
	States     []string    `json:"states"`
	Target     int         `json:"target"`
	Tx         string      `json:"tx"`
}

func with(operation func(ctx context.Context, p *program, params *params) (any, error)) func(context.Context, *program, []byte) (any, error) {
	return func(ctx context.Context, p *program, line []byte) (any, error) {
		var read params
		if err := json.Unmarshal(line, &read); err != nil {
			return nil, err
		}
		return operation(ctx, p, &read)
	}
}

// rawArgs are args as a text; Go's encoder makes it compact, and escapes what it always does.
type rawArgs struct {
	kind string
	text json.RawMessage
}

func (a rawArgs) Kind() string                 { return a.kind }
func (a rawArgs) MarshalJSON() ([]byte, error) { return a.text, nil }

// insertJob is a job to insert. `Text` are args that must not be touched on their way here; `Args` are all others.
//
// With `IsTagged` the args are taggedArgs, with `IsTwin` twinArgs, with `IsNumber` numberArgs.
type insertJob struct {
	Args     json.RawMessage `json:"args"`
	IsNumber bool            `json:"is_number"`
	IsTagged bool            `json:"is_tagged"`
	IsTwin   bool            `json:"is_twin"`
	Kind     string          `json:"kind"`
	Opts     *insertOpts     `json:"opts"`
	Text     string          `json:"text"`
}

// taggedArgs say which of their fields make a job unique.
type taggedArgs struct {
	kind string

	Amount   int            `json:"amount"   river:"unique"`
	Customer taggedCustomer `json:"customer" river:"unique"`
	Trace    string         `json:"trace"`
}

type taggedCustomer struct {
	ID   string `json:"id"   river:"unique"`
	Name string `json:"name"`
}

func (a taggedArgs) Kind() string { return a.kind }

// twinArgs have two fields of one type, in which a field is tagged.
type twinArgs struct {
	kind string

	From taggedCustomer `json:"from"`
	To   taggedCustomer `json:"to"`
}

func (a twinArgs) Kind() string { return a.kind }

// numberArgs have a tagged field whose name is a number.
type numberArgs struct {
	kind string

	Seven string `json:"7" river:"unique"`
}

func (a numberArgs) Kind() string { return a.kind }

func (j insertJob) args() river.JobArgs {
	if j.IsTagged {
		args := taggedArgs{kind: j.Kind}
		if err := json.Unmarshal(j.Args, &args); err != nil {
			panic(err)
		}
		return args
	}
	if j.IsTwin {
		args := twinArgs{kind: j.Kind}
		if err := json.Unmarshal(j.Args, &args); err != nil {
			panic(err)
		}
		return args
	}
	if j.IsNumber {
		args := numberArgs{kind: j.Kind}
		if err := json.Unmarshal(j.Args, &args); err != nil {
			panic(err)
		}
		return args
	}
	if j.Text != "" {
		return rawArgs{j.Kind, json.RawMessage(j.Text)}
	}
	return rawArgs{j.Kind, j.Args}
}

type insertOpts struct {
	MaxAttempts int             `json:"max_attempts"`
	Metadata    json.RawMessage `json:"metadata"`
	Pending     bool            `json:"pending"`
	Priority    int             `json:"priority"`
	Queue       string          `json:"queue"`
	ScheduledAt time.Time       `json:"scheduled_at"`
	Tags        []string        `json:"tags"`
	Unique      *uniqueOpts     `json:"unique"`
}

type uniqueOpts struct {
	ByArgs          bool                 `json:"by_args"`
	ByPeriodSeconds float64              `json:"by_period_seconds"`
	ByQueue         bool                 `json:"by_queue"`
	ByState         []rivertype.JobState `json:"by_state"`
	ExcludeKind     bool                 `json:"exclude_kind"`
}

func (o *insertOpts) river() *river.InsertOpts {
	if o == nil {
		return nil
	}
	opts := &river.InsertOpts{
		MaxAttempts: o.MaxAttempts, Metadata: o.Metadata, Pending: o.Pending, Priority: o.Priority, Queue: o.Queue,
		ScheduledAt: o.ScheduledAt, Tags: o.Tags,
	}
	if u := o.Unique; u != nil {
		opts.UniqueOpts = river.UniqueOpts{
			ByArgs: u.ByArgs, ByPeriod: seconds(u.ByPeriodSeconds), ByQueue: u.ByQueue, ByState: u.ByState, ExcludeKind: u.ExcludeKind,
		}
	}
	return opts
}

// insert inserts in one statement, in a transaction that is open if one is named.
func insert(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	many := make([]river.InsertManyParams, len(params.Jobs))
	for i, job := range params.Jobs {
		many[i] = river.InsertManyParams{Args: job.args(), InsertOpts: job.Opts.river()}
	}
	if params.Fast {
		return client.InsertManyFast(ctx, many)
	}
	var results []*rivertype.JobInsertResult
	if params.Tx == "" {
		results, err = client.InsertMany(ctx, many)
	} else {
		tx, found := p.tx(params.Tx)
		if found != nil {
			return nil, found
		}
		results, err = client.InsertManyTx(ctx, tx, many)
	}
	if err != nil {
		return nil, err
	}
	told := make([]map[string]any, len(results))
	for i, result := range results {
		told[i] = map[string]any{"skipped": result.UniqueSkippedAsDuplicate, "job": rowFields(result.Job)}
	}
	return told, nil
}

// frozenClock makes a client's "now" a constant.
type frozenClock struct{ now time.Time }

func (c frozenClock) Now() time.Time       { return c.now }
func (c frozenClock) NowOrNil() *time.Time { return &c.now }

// unique inserts each case by itself, and takes it back, to see its key.
func unique(ctx context.Context, p *program, params *params) (any, error) {
	config := &river.Config{Logger: quiet(), Schema: params.Schema}
	if params.Now != nil {
		config.Test.Time = frozenClock{*params.Now}
	}
	client, err := river.NewClient(riverpgxv5.New(p.pool), config)
	if err != nil {
		return nil, err
	}
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	told := make([]map[string]any, len(params.Cases))
	for i, one := range params.Cases {
		told[i] = uniqueCase(ctx, client, tx, one)
	}
	return told, nil
}

func uniqueCase(ctx context.Context, client *river.Client[pgx.Tx], tx pgx.Tx, one insertJob) map[string]any {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	defer func() { _ = savepoint.Rollback(ctx) }()
	result, err := client.InsertTx(ctx, savepoint, one.args(), one.Opts.river())
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return map[string]any{"key": hex.EncodeToString(result.Job.UniqueKey), "states": result.Job.UniqueStates}
}

// encode writes values as Go's encoder does: numbers with a fraction or an exponent are floats, others stay as they are.
func encode(_ context.Context, _ *program, params *params) (any, error) {
	texts := make([]string, len(params.Cases))
	for i, one := range params.Cases {
		decoder := json.NewDecoder(bytes.NewReader([]byte(one.Text)))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		encoded, err := json.Marshal(typed(value))
		if err != nil {
			return nil, err
		}
		texts[i] = string(encoded)
	}
	return texts, nil
}

func typed(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			value[key] = typed(inner)
		}
	case []any:
		for i, inner := range value {
			value[i] = typed(inner)
		}
	case json.Number:
		if bytes.ContainsAny([]byte(value), ".eE") {
			number, err := value.Float64()
			if err == nil {
				return number
			}
		}
	}
	return value
}

func onJob(command func(client *river.Client[pgx.Tx], ctx context.Context, id int64) (*rivertype.JobRow, error)) func(context.Context, *program, *params) (any, error) {
	return func(ctx context.Context, p *program, params *params) (any, error) {
		client, err := p.control(params.Schema)
		if err != nil {
			return nil, err
		}
		job, err := command(client, ctx, params.Job)
		if err != nil {
			return nil, err
		}
		return rowFields(job), nil
	}
}

// list gives a page of ids, and the cursor behind it.
func list(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	order := river.SortOrderAsc
	if params.Descending {
		order = river.SortOrderDesc
	}
	listed := river.NewJobListParams().First(params.Limit)
	if len(params.States) > 0 {
		states := make([]rivertype.JobState, len(params.States))
		for i, state := range params.States {
			states[i] = rivertype.JobState(state)
		}
		listed = listed.States(states...)
	}
	listed = listed.OrderBy(river.JobListOrderByField(params.OrderBy), order)
	if params.After != "" {
		var cursor river.JobListCursor
		if err := cursor.UnmarshalText([]byte(params.After)); err != nil {
			return nil, err
		}
		listed = listed.After(&cursor)
	}
	page, err := client.JobList(ctx, listed)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(page.Jobs))
	for i, job := range page.Jobs {
		ids[i] = job.ID
	}
	told := map[string]any{"ids": ids, "cursor": nil}
	if page.LastCursor != nil {
		text, err := page.LastCursor.MarshalText()
		if err != nil {
			return nil, err
		}
		told["cursor"] = string(text)
	}
	return told, nil
}

func pause(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	return nil, client.QueuePause(ctx, params.Queue, nil)
}

func resume(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	return nil, client.QueueResume(ctx, params.Queue, nil)
}

func queueGet(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	queue, err := client.QueueGet(ctx, params.Queue)
	if err != nil {
		return nil, err
	}
	return map[string]any{"name": queue.Name, "is_paused": queue.PausedAt != nil, "metadata": json.RawMessage(queue.Metadata)}, nil
}

func requestResign(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	return nil, client.Notify().RequestResign(ctx)
}

// release lets an attempt go on that holds.
func release(_ context.Context, p *program, params *params) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held, ok := p.held[params.Job]
	if !ok {
		return nil, fmt.Errorf("job must be held, got %d", params.Job)
	}
	delete(p.held, params.Job)
	close(held)
	return nil, nil
}

func executedBy(_ context.Context, p *program, params *params) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]executed{}, p.executed[params.ID]...), nil
}

func begin(ctx context.Context, p *program, params *params) (any, error) {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.txs[params.Tx] = tx
	return nil, nil
}

func end(ctx context.Context, p *program, params *params) (any, error) {
	tx, err := p.tx(params.Tx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	delete(p.txs, params.Tx)
	p.mu.Unlock()
	if params.Commit {
		return nil, tx.Commit(ctx)
	}
	return nil, tx.Rollback(ctx)
}

func (p *program) tx(name string) (pgx.Tx, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tx, ok := p.txs[name]
	if !ok {
		return nil, errors.New("transaction must be begun, got " + name)
	}
	return tx, nil
}

func (p *program) migrator(schema string) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(p.pool), &rivermigrate.Config{Logger: quiet(), Schema: schema})
}

// migrate returns the versions that it applied or took back.
func migrate(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	opts := &rivermigrate.MigrateOpts{MaxSteps: params.MaxSteps, TargetVersion: params.Target}
	result, err := migrator.Migrate(ctx, rivermigrate.Direction(params.Direction), opts)
	if err != nil {
		return nil, err
	}
	done := make([]int, len(result.Versions))
	for i, version := range result.Versions {
		done[i] = version.Version
	}
	return done, nil
}

func validate(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	result, err := migrator.Validate(ctx, nil)
	if err != nil {
		return nil, err
	}
	return map[string]any{"ok": result.OK, "messages": result.Messages}, nil
}

func versions(ctx context.Context, p *program, params *params) (any, error) {
	migrator, err := p.migrator(params.Schema)
	if err != nil {
		return nil, err
	}
	existing, err := migrator.ExistingVersions(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]int, len(existing))
	for i, version := range existing {
		found[i] = version.Version
	}
	return found, nil
}

// rowFields is a row as River reads it.
func rowFields(job *rivertype.JobRow) map[string]any {
	attemptErrors := make([]map[string]any, len(job.Errors))
	for i, one := range job.Errors {
		attemptErrors[i] = map[string]any{"at": one.At, "attempt": one.Attempt, "error": one.Error, "trace": one.Trace}
	}
	return map[string]any{
		"id": job.ID, "args": json.RawMessage(job.EncodedArgs), "attempt": job.Attempt, "attempted_at": job.AttemptedAt,
		"attempted_by": job.AttemptedBy, "created_at": job.CreatedAt, "errors": attemptErrors, "finalized_at": job.FinalizedAt,
		"kind": job.Kind, "max_attempts": job.MaxAttempts, "metadata": json.RawMessage(job.Metadata), "priority": job.Priority,
		"queue": job.Queue, "scheduled_at": job.ScheduledAt, "state": job.State, "tags": job.Tags,
		"unique_key": hex.EncodeToString(job.UniqueKey), "unique_states": job.UniqueStates,
	}
}
