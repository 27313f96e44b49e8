package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

func init() {
	operations["batch"] = insertBatch
	operations["storage"] = storage
}

// storageParams are a command to jobs or queues as they are stored; with Tx in a transaction that was begun.
type storageParams struct {
	After      string          `json:"after"`
	Descending bool            `json:"descending"`
	Filters    filterParams    `json:"filters"`
	Job        int64           `json:"job"`
	Limit      int             `json:"limit"`
	Metadata   json.RawMessage `json:"metadata"`
	Method     string          `json:"method"`
	OrderBy    string          `json:"order_by"`
	Output     json.RawMessage `json:"output"`
	Queue      string          `json:"queue"`
	Schema     string          `json:"schema"`
	Tx         string          `json:"tx"`
	UnsafeAll  bool            `json:"unsafe_all"`
}

type filterParams struct {
	IDs        []int64              `json:"ids"`
	Kinds      []string             `json:"kinds"`
	Metadata   string               `json:"metadata"`
	Priorities []int16              `json:"priorities"`
	Queues     []string             `json:"queues"`
	States     []rivertype.JobState `json:"states"`
	TagsAll    []string             `json:"tags_all"`
	TagsAny    []string             `json:"tags_any"`
	Where      string               `json:"where"`
	WhereArgs  map[string]any       `json:"where_args"`
}

// desk is a client, and the transaction in which it acts, if it acts in one.
type desk struct {
	client *river.Client[pgx.Tx]
	tx     pgx.Tx
}

func storage(ctx context.Context, p *program, line []byte) (any, error) {
	var params storageParams
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	at, err := p.desk(params.Schema, params.Tx)
	if err != nil {
		return nil, err
	}
	switch params.Method {
	case "job_cancel":
		return told(pick(at, at.client.JobCancel, at.client.JobCancelTx)(ctx, params.Job))
	case "job_delete":
		return told(pick(at, at.client.JobDelete, at.client.JobDeleteTx)(ctx, params.Job))
	case "job_get":
		return told(pick(at, at.client.JobGet, at.client.JobGetTx)(ctx, params.Job))
	case "job_retry":
		return told(pick(at, at.client.JobRetry, at.client.JobRetryTx)(ctx, params.Job))
	case "job_peek":
		return peeked(pick(at, at.client.JobGet, at.client.JobGetTx)(ctx, params.Job))
	case "job_update":
		return at.jobUpdate(ctx, &params)
	case "job_list":
		return at.jobList(ctx, &params)
	case "job_delete_many":
		return at.jobDeleteMany(ctx, &params)
	case "queue_get":
		return toldQueue(pick(at, at.client.QueueGet, at.client.QueueGetTx)(ctx, params.Queue))
	case "queue_list":
		return at.queueList(ctx, &params)
	case "queue_pause":
		return nil, at.queuePause(ctx, params.Queue)
	case "queue_resume":
		return nil, at.queueResume(ctx, params.Queue)
	case "queue_update":
		return at.queueUpdate(ctx, &params)
	}
	return nil, fmt.Errorf("method must be one that this program knows, got %q", params.Method)
}

func (p *program) desk(schema, tx string) (*desk, error) {
	client, err := p.control(schema)
	if err != nil || tx == "" {
		return &desk{client: client}, err
	}
	begun, err := p.tx(tx)
	return &desk{client: client, tx: begun}, err
}

// pick is a command of River's, in the transaction or by itself.
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

func told(job *rivertype.JobRow, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return rowFields(job), nil
}

// peeked is what can be told of any job, whatever stands in its row.
func peeked(job *rivertype.JobRow, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return map[string]any{"attempt": job.Attempt, "num_errors": len(job.Errors), "state": job.State}, nil
}

func toldQueue(queue *rivertype.Queue, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return queueFields(queue), nil
}

func queueFields(queue *rivertype.Queue) map[string]any {
	return map[string]any{"name": queue.Name, "is_paused": queue.PausedAt != nil, "metadata": json.RawMessage(queue.Metadata)}
}

func (at *desk) jobUpdate(ctx context.Context, params *storageParams) (any, error) {
	update := &river.JobUpdateParams{Output: params.Output}
	if at.tx == nil {
		return told(at.client.JobUpdate(ctx, params.Job, update))
	}
	return told(at.client.JobUpdateTx(ctx, at.tx, params.Job, update))
}

func (at *desk) jobList(ctx context.Context, params *storageParams) (any, error) {
	listed, err := params.list()
	if err != nil {
		return nil, err
	}
	var page *river.JobListResult
	if at.tx == nil {
		page, err = at.client.JobList(ctx, listed)
	} else {
		page, err = at.client.JobListTx(ctx, at.tx, listed)
	}
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"ids": idsOf(page.Jobs), "cursor": nil}
	if page.LastCursor != nil {
		text, err := page.LastCursor.MarshalText()
		if err != nil {
			return nil, err
		}
		answer["cursor"] = string(text)
	}
	return answer, nil
}

func (params *storageParams) list() (*river.JobListParams, error) {
	filters := params.Filters
	listed := river.NewJobListParams().First(params.Limit).
		IDs(filters.IDs...).Kinds(filters.Kinds...).Priorities(filters.Priorities...).Queues(filters.Queues...).
		TagsAll(filters.TagsAll...).TagsAny(filters.TagsAny...)
	if len(filters.States) > 0 {
		listed = listed.States(filters.States...)
	}
	if filters.Metadata != "" {
		listed = listed.Metadata(filters.Metadata)
	}
	if filters.Where != "" {
		listed = listed.Where(filters.Where, river.NamedArgs(filters.WhereArgs))
	}
	order := river.SortOrderAsc
	if params.Descending {
		order = river.SortOrderDesc
	}
	listed = listed.OrderBy(river.JobListOrderByField(params.OrderBy), order)
	if params.After == "" {
		return listed, nil
	}
	var cursor river.JobListCursor
	if err := cursor.UnmarshalText([]byte(params.After)); err != nil {
		return nil, err
	}
	return listed.After(&cursor), nil
}

func (at *desk) jobDeleteMany(ctx context.Context, params *storageParams) (any, error) {
	filters := params.Filters
	deleted := river.NewJobDeleteManyParams().First(params.Limit).
		IDs(filters.IDs...).Kinds(filters.Kinds...).Priorities(filters.Priorities...).Queues(filters.Queues...).States(filters.States...)
	if filters.Where != "" {
		deleted = deleted.Where(filters.Where, river.NamedArgs(filters.WhereArgs))
	}
	if params.UnsafeAll {
		deleted = deleted.UnsafeAll()
	}
	var result *river.JobDeleteManyResult
	var err error
	if at.tx == nil {
		result, err = at.client.JobDeleteMany(ctx, deleted)
	} else {
		result, err = at.client.JobDeleteManyTx(ctx, at.tx, deleted)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"ids": idsOf(result.Jobs)}, nil
}

func idsOf(jobs []*rivertype.JobRow) []int64 {
	ids := make([]int64, len(jobs))
	for i, job := range jobs {
		ids[i] = job.ID
	}
	return ids
}

func (at *desk) queueList(ctx context.Context, params *storageParams) (any, error) {
	listed := river.NewQueueListParams().First(params.Limit)
	var result *river.QueueListResult
	var err error
	if at.tx == nil {
		result, err = at.client.QueueList(ctx, listed)
	} else {
		result, err = at.client.QueueListTx(ctx, at.tx, listed)
	}
	if err != nil {
		return nil, err
	}
	queues := make([]map[string]any, len(result.Queues))
	for i, queue := range result.Queues {
		queues[i] = queueFields(queue)
	}
	return queues, nil
}

func (at *desk) queuePause(ctx context.Context, name string) error {
	if at.tx == nil {
		return at.client.QueuePause(ctx, name, nil)
	}
	return at.client.QueuePauseTx(ctx, at.tx, name, nil)
}

func (at *desk) queueResume(ctx context.Context, name string) error {
	if at.tx == nil {
		return at.client.QueueResume(ctx, name, nil)
	}
	return at.client.QueueResumeTx(ctx, at.tx, name, nil)
}

func (at *desk) queueUpdate(ctx context.Context, params *storageParams) (any, error) {
	update := &river.QueueUpdateParams{Metadata: params.Metadata}
	if at.tx == nil {
		return toldQueue(at.client.QueueUpdate(ctx, params.Queue, update))
	}
	return toldQueue(at.client.QueueUpdateTx(ctx, at.tx, params.Queue, update))
}

// insertBatch inserts jobs, in a transaction or not, by COPY if it is to be fast; then it says how many.
func insertBatch(ctx context.Context, p *program, line []byte) (any, error) {
	var params params
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	at, err := p.desk(params.Schema, params.Tx)
	if err != nil {
		return nil, err
	}
	many := make([]river.InsertManyParams, len(params.Jobs))
	for i, job := range params.Jobs {
		many[i] = river.InsertManyParams{Args: job.args(), InsertOpts: job.Opts.river()}
	}
	switch {
	case params.Fast && at.tx == nil:
		return at.client.InsertManyFast(ctx, many)
	case params.Fast:
		return at.client.InsertManyFastTx(ctx, at.tx, many)
	case at.tx == nil:
		results, err := at.client.InsertMany(ctx, many)
		return len(results), err
	}
	results, err := at.client.InsertManyTx(ctx, at.tx, many)
	return len(results), err
}
