package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// teller tells each moment at which River calls somebody, for one client.
type teller struct {
	client  string
	program *program
}

func (t teller) tell(format string, values ...any) {
	t.program.tell(map[string]any{"event": "moment", "client": t.client, "moment": fmt.Sprintf(format, values...)})
}

// around is a middleware of inserts and of attempts.
type around struct {
	river.MiddlewareDefaults
	teller

	name string
}

func (a *around) InsertMany(ctx context.Context, params []*rivertype.JobInsertParams, call func(context.Context) ([]*rivertype.JobInsertResult, error)) ([]*rivertype.JobInsertResult, error) {
	a.tell("%s insert of %d", a.name, len(params))
	defer a.tell("%s insert is over", a.name)
	return call(ctx)
}

func (a *around) Work(ctx context.Context, _ *rivertype.JobRow, call func(context.Context) error) error {
	a.tell("%s work", a.name)
	defer a.tell("%s work is over", a.name)
	return call(ctx)
}

// at is a hook at all moments; it refuses inserts and attempts of jobs that are tagged with its name.
type at struct {
	river.HookDefaults
	teller

	name string
}

func (a *at) InsertBegin(_ context.Context, params *rivertype.JobInsertParams) error {
	a.tell("%s insert_begin", a.name)
	return a.refuse(params.Tags, "no_insert_")
}

func (a *at) MetricEmit(_ context.Context, params *rivertype.HookMetricEmitParams) {
	if metric, ok := params.Metric.(*rivertype.JobGetAvailableCountMetric); ok && metric.Count > 0 {
		a.tell("%s fetched %d of %s", a.name, metric.Count, metric.Queue)
	}
}

func (a *at) Start(context.Context, *rivertype.HookPeriodicJobsStartParams) error {
	a.tell("%s periodic_jobs_start", a.name)
	return nil
}

func (a *at) WorkBegin(_ context.Context, job *rivertype.JobRow) error {
	a.tell("%s work_begin", a.name)
	return a.refuse(job.Tags, "no_work_")
}

func (a *at) WorkEnd(_ context.Context, _ *rivertype.JobRow, err error) error {
	a.tell("%s work_end %s", a.name, kindOfError(err))
	return err
}

func (a *at) refuse(tags []string, prefix string) error {
	for _, tag := range tags {
		if tag == prefix+a.name {
			return fmt.Errorf("%s refuses", a.name)
		}
	}
	return nil
}

// kindOfError is what both languages can say of an error.
func kindOfError(err error) string {
	switch err.(type) {
	case nil:
		return "nothing"
	case *river.JobSnoozeError:
		return "snooze"
	case *river.JobCancelError:
		return "cancel"
	}
	return "error"
}

// handler cancels jobs whose error asks for it.
type handler struct{ teller }

func (h handler) HandleError(_ context.Context, _ *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	h.tell("handle_error")
	return &river.ErrorHandlerResult{SetCancelled: strings.Contains(err.Error(), "hopeless")}
}

func (h handler) HandlePanic(context.Context, *rivertype.JobRow, any, string) *river.ErrorHandlerResult {
	h.tell("handle_panic")
	return nil
}

// momentArgs are scripts, with a hook of their kind's own.
type momentArgs struct {
	teller

	Do []act `json:"do"`
}

func (a momentArgs) Kind() string { return "act" }
func (a momentArgs) Hooks() []rivertype.Hook {
	return []rivertype.Hook{&at{teller: a.teller, name: "own"}}
}

// momentWorker plays the script, with a middleware of its own.
type momentWorker struct {
	river.WorkerDefaults[momentArgs]
	teller
}

func (w *momentWorker) Middleware(*rivertype.JobRow) []rivertype.WorkerMiddleware {
	return []rivertype.WorkerMiddleware{&around{teller: w.teller, name: "own"}}
}

func (w *momentWorker) Work(ctx context.Context, job *river.Job[momentArgs]) error {
	w.tell("worker")
	player := &actWorker{client: w.client, program: w.program}
	return player.play(ctx, &river.Job[actArgs]{JobRow: job.JobRow}, job.Args.Do)
}

// startMoments starts a client that tells all moments, and leads.
func startMoments(ctx context.Context, p *program, line []byte) (any, error) {
	var params clientParams
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	told := teller{params.ID, p}
	workers := river.NewWorkers()
	river.AddWorkerArgs(workers, momentArgs{teller: told}, &momentWorker{teller: told})
	client, err := river.NewClient[pgx.Tx](riverpgxv5.New(p.pool), &river.Config{
		ID:                  params.ID,
		ErrorHandler:        handler{told},
		Hooks:               []rivertype.Hook{&at{teller: told, name: "first"}, &at{teller: told, name: "second"}},
		Logger:              quiet(),
		Middleware:          []rivertype.Middleware{&around{teller: told, name: "outer"}, &around{teller: told, name: "inner"}},
		Queues:              map[string]river.QueueConfig{"default": {MaxWorkers: 1}},
		Schema:              params.Schema,
		SkipUnknownJobCheck: true,
		TestOnly:            true, // a leader's services begin at once
		Workers:             workers,
	})
	if err != nil {
		return nil, err
	}
	events, _ := client.Subscribe(eventKinds...)
	go p.tellEvents(params.ID, events)
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[params.ID] = client
	return client.ID(), nil
}

// insertMoments inserts by the client of startMoments, and returns the ids.
func insertMoments(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.working(params.ID)
	if err != nil {
		return nil, err
	}
	told := teller{params.ID, p}
	many := make([]river.InsertManyParams, len(params.Jobs))
	for i, job := range params.Jobs {
		var args river.JobArgs = rawArgs{job.Kind, job.Args}
		if job.Kind == "act" {
			typed := momentArgs{teller: told}
			if err := json.Unmarshal(job.Args, &typed); err != nil {
				return nil, err
			}
			args = typed
		}
		many[i] = river.InsertManyParams{Args: args, InsertOpts: job.Opts.river()}
	}
	results, err := client.InsertMany(ctx, many)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(results))
	for i, result := range results {
		ids[i] = result.Job.ID
	}
	return ids, nil
}
