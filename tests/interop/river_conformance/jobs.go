package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// desk is a client, and the transaction in which it acts, if there is one.
type desk struct {
	client *river.Client[pgx.Tx]
	tx     pgx.Tx
}

func (a *adapter) desk(p *params) (*desk, error) {
	client, err := a.client(p.Schema)
	if err != nil {
		return nil, err
	}
	tx, err := a.tx(p.Handle)
	return &desk{client, tx}, err
}

// pick returns a command of River's, in the transaction or alone.
func pick[Key, Answer any](
	at *desk,
	alone func(context.Context, Key) (Answer, error),
	within func(context.Context, pgx.Tx, Key) (Answer, error),
) func(context.Context, Key) (Answer, error) {
	if at.tx == nil {
		return alone
	}
	return func(ctx context.Context, key Key) (Answer, error) { return within(ctx, at.tx, key) }
}

func insertOne(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	job := &p.jobParams
	if p.Job != nil {
		job = p.Job
	}
	var result *rivertype.JobInsertResult
	if at.tx == nil {
		result, err = at.client.Insert(ctx, job.args(), job.insertOpts())
	} else {
		result, err = at.client.InsertTx(ctx, at.tx, job.args(), job.insertOpts())
	}
	if err != nil {
		return nil, err
	}
	return normalized(result.Job), nil
}

func insertMany(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	many := make([]river.InsertManyParams, len(p.Jobs))
	for i := range p.Jobs {
		many[i] = river.InsertManyParams{Args: p.Jobs[i].args(), InsertOpts: p.Jobs[i].insertOpts()}
	}
	results, err := pick(at, at.client.InsertMany, at.client.InsertManyTx)(ctx, many)
	if err != nil {
		return nil, err
	}
	told := make([]map[string]any, len(results))
	for i, one := range results {
		told[i] = map[string]any{"job": normalized(one.Job), "unique_skipped_as_duplicate": one.UniqueSkippedAsDuplicate}
	}
	return map[string]any{"results": told}, nil
}

func get(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	return answered(pick(at, at.client.JobGet, at.client.JobGetTx)(ctx, p.ID))
}

func cancel(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	return answered(pick(at, at.client.JobCancel, at.client.JobCancelTx)(ctx, p.ID))
}

func retry(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	return answered(pick(at, at.client.JobRetry, at.client.JobRetryTx)(ctx, p.ID))
}

func deleteOne(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	return answered(pick(at, at.client.JobDelete, at.client.JobDeleteTx)(ctx, p.ID))
}

func update(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	changed := &river.JobUpdateParams{Output: p.Output}
	if at.tx == nil {
		return answered(at.client.JobUpdate(ctx, p.ID, changed))
	}
	return answered(at.client.JobUpdateTx(ctx, at.tx, p.ID, changed))
}

func list(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	listed, err := p.listParams()
	if err != nil {
		return nil, err
	}
	page, err := pick(at, at.client.JobList, at.client.JobListTx)(ctx, listed)
	if err != nil {
		return nil, err
	}
	result := map[string]any{"cursor": nil, "jobs": allNormalized(page.Jobs)}
	if page.LastCursor != nil {
		text, err := page.LastCursor.MarshalText()
		if err != nil {
			return nil, err
		}
		result["cursor"] = string(text)
	}
	return result, nil
}

func (p *params) listParams() (*river.JobListParams, error) {
	listed := river.NewJobListParams().
		IDs(p.IDs...).Kinds(p.Kinds...).Priorities(p.Priorities...).Queues(p.Queues...).TagsAll(p.TagsAll...).TagsAny(p.TagsAny...)
	if p.Limit > 0 {
		listed = listed.First(p.Limit)
	}
	if len(p.States) > 0 {
		listed = listed.States(p.States...)
	}
	if len(p.Metadata) > 0 && string(p.Metadata) != "{}" {
		listed = listed.Metadata(string(p.Metadata))
	}
	order := river.SortOrderAsc
	if p.Direction == "desc" {
		order = river.SortOrderDesc
	}
	orderBy := river.JobListOrderByID
	if p.OrderBy != "" {
		orderBy = river.JobListOrderByField(p.OrderBy)
	}
	listed = listed.OrderBy(orderBy, order)
	if p.After == "" {
		return listed, nil
	}
	var cursor river.JobListCursor
	if err := cursor.UnmarshalText([]byte(p.After)); err != nil {
		return nil, err
	}
	return listed.After(&cursor), nil
}

func deleteMany(ctx context.Context, a *adapter, p *params) (any, error) {
	at, err := a.desk(p)
	if err != nil {
		return nil, err
	}
	deleted := river.NewJobDeleteManyParams().IDs(p.IDs...).Kinds(p.Kinds...).Queues(p.Queues...).States(p.States...)
	if p.Limit > 0 {
		deleted = deleted.First(p.Limit)
	}
	if p.All {
		deleted = deleted.UnsafeAll()
	}
	result, err := pick(at, at.client.JobDeleteMany, at.client.JobDeleteManyTx)(ctx, deleted)
	if err != nil {
		return nil, err
	}
	return map[string]any{"jobs": allNormalized(result.Jobs)}, nil
}

func answered(job *rivertype.JobRow, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return normalized(job), nil
}

func allNormalized(jobs []*rivertype.JobRow) []map[string]any {
	all := make([]map[string]any, len(jobs))
	for i, job := range jobs {
		all[i] = normalized(job)
	}
	return all
}

// normalized is a row as the contract describes it.
func normalized(job *rivertype.JobRow) map[string]any {
	attemptErrors := make([]map[string]any, len(job.Errors))
	for i, one := range job.Errors {
		attemptErrors[i] = map[string]any{"at": one.At.UTC(), "attempt": one.Attempt, "error": one.Error, "trace": one.Trace}
	}
	var uniqueKey *string
	if job.UniqueKey != nil {
		text := hex.EncodeToString(job.UniqueKey)
		uniqueKey = &text
	}
	uniqueStates := slices.Clone(job.UniqueStates)
	slices.Sort(uniqueStates)
	return map[string]any{
		"args": json.RawMessage(job.EncodedArgs), "attempt": job.Attempt, "attempted_at": utc(job.AttemptedAt),
		"attempted_by": texts(job.AttemptedBy), "created_at": job.CreatedAt.UTC(), "errors": attemptErrors,
		"finalized_at": utc(job.FinalizedAt), "id": job.ID, "kind": job.Kind, "max_attempts": job.MaxAttempts,
		"metadata": json.RawMessage(job.Metadata), "priority": job.Priority, "queue": job.Queue,
		"scheduled_at": job.ScheduledAt.UTC(), "state": job.State, "tags": texts(job.Tags), "unique_key": uniqueKey,
		"unique_states": uniqueStates,
	}
}

func texts(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func utc(at *time.Time) *time.Time {
	if at == nil {
		return nil
	}
	inUTC := at.UTC()
	return &inUTC
}
