package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverlog"
	"github.com/riverqueue/river/rivertype"
)

// clientParams says what a working client is like; what is not said is River's default.
type clientParams struct {
	ID                     string              `json:"id"`
	Aliases                map[string][]string `json:"aliases"`
	ClockOffsetSeconds     float64             `json:"clock_offset_seconds"`
	FetchCooldownSeconds   float64             `json:"fetch_cooldown_seconds"`
	FetchOnlyKnownKinds    bool                `json:"fetch_only_known_kinds"`
	FetchPollSeconds       float64             `json:"fetch_poll_seconds"`
	IsQuiet                bool                `json:"is_quiet"`
	JobTimeoutSeconds      float64             `json:"job_timeout_seconds"`
	Kinds                  []string            `json:"kinds"`
	LeaderElectionDisabled bool                `json:"leader_election_disabled"`
	PeriodicJobs           []periodicParams    `json:"periodic_jobs"`
	PollOnly               bool                `json:"poll_only"`
	Queues                 map[string]int      `json:"queues"`
	ReindexIndexes         []string            `json:"reindex_indexes"`
	ReindexSeconds         float64             `json:"reindex_seconds"`
	RescueAfterSeconds     float64             `json:"rescue_after_seconds"`
	RetentionSeconds       map[string]float64  `json:"retention_seconds"`
	Schema                 string              `json:"schema"`
	SoftStopSeconds        float64             `json:"soft_stop_seconds"`
}

type periodicParams struct {
	ID         string          `json:"id"`
	Args       json.RawMessage `json:"args"`
	IsAligned  bool            `json:"is_aligned"`
	Kind       string          `json:"kind"`
	Opts       *insertOpts     `json:"opts"`
	RunOnStart bool            `json:"run_on_start"`
	Seconds    float64         `json:"seconds"`
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }

// retention is how long jobs of a state are kept; for River -1 means for ever.
func retention(number float64) time.Duration {
	if number < 0 {
		return -1
	}
	return seconds(number)
}

// skewedClock is wrong by the same amount all the time.
type skewedClock struct{ offset time.Duration }

func (c skewedClock) Now() time.Time       { return time.Now().Add(c.offset) }
func (c skewedClock) NowOrNil() *time.Time { return nil }

func (p *program) newClient(params *clientParams) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	for _, kind := range params.Kinds {
		args := actArgs{kind: kind, aliases: params.Aliases[kind]}
		river.AddWorkerArgs(workers, args, &actWorker{client: params.ID, isQuiet: params.IsQuiet, program: p})
	}
	config := &river.Config{
		ID:                          params.ID,
		CancelledJobRetentionPeriod: retention(params.RetentionSeconds["cancelled"]),
		CompletedJobRetentionPeriod: retention(params.RetentionSeconds["completed"]),
		DiscardedJobRetentionPeriod: retention(params.RetentionSeconds["discarded"]),
		FetchCooldown:               seconds(params.FetchCooldownSeconds),
		FetchOnlyKnownKinds:         params.FetchOnlyKnownKinds,
		FetchPollInterval:           seconds(params.FetchPollSeconds),
		JobTimeout:                  seconds(params.JobTimeoutSeconds),
		LeaderElectionDisabled:      params.LeaderElectionDisabled,
		Logger:                      quiet(),
		Middleware:                  []rivertype.Middleware{riverlog.NewMiddleware(plainHandler, nil)},
		PollOnly:                    params.PollOnly,
		Queues:                      map[string]river.QueueConfig{},
		ReindexerIndexNames:         params.ReindexIndexes,
		RescueStuckJobsAfter:        seconds(params.RescueAfterSeconds),
		Schema:                      params.Schema,
		SkipUnknownJobCheck:         true,
		SoftStopTimeout:             seconds(params.SoftStopSeconds),
		TestOnly:                    true, // a leader's services begin at once
		Workers:                     workers,
	}
	for name, maxWorkers := range params.Queues {
		config.Queues[name] = river.QueueConfig{MaxWorkers: maxWorkers}
	}
	if params.ReindexSeconds > 0 {
		config.ReindexerSchedule = river.PeriodicInterval(seconds(params.ReindexSeconds))
	}
	if params.ClockOffsetSeconds != 0 {
		config.Test.Time = skewedClock{seconds(params.ClockOffsetSeconds)}
	}
	for _, periodic := range params.PeriodicJobs {
		config.PeriodicJobs = append(config.PeriodicJobs, periodic.job())
	}
	return river.NewClient(riverpgxv5.New(p.pool), config)
}

func (periodic periodicParams) job() *river.PeriodicJob {
	constructor := func() (river.JobArgs, *river.InsertOpts) {
		return rawArgs{periodic.Kind, periodic.Args}, periodic.Opts.river()
	}
	schedule := periodic.schedule()
	return river.NewPeriodicJob(schedule, constructor, &river.PeriodicJobOpts{ID: periodic.ID, RunOnStart: periodic.RunOnStart})
}

// startClient starts a working client whose events are told.
func startClient(ctx context.Context, p *program, line []byte) (any, error) {
	var params clientParams
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	client, err := p.newClient(&params)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.executed[params.ID] = nil
	p.mu.Unlock()
	events, _ := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: 100_000, Kinds: eventKinds})
	if !params.IsQuiet {
		go p.tellEvents(params.ID, events)
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[params.ID] = client
	return client.ID(), nil
}

var eventKinds = []river.EventKind{
	river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobInterrupted,
	river.EventKindJobSnoozed, river.EventKindQueuePaused, river.EventKindQueueResumed,
}

func (p *program) tellEvents(id string, events <-chan *river.Event) {
	for event := range events {
		fields := map[string]any{"event": string(event.Kind), "client": id}
		if event.Job != nil {
			fields["job"], fields["state"] = event.Job.ID, string(event.Job.State)
		}
		if event.Queue != nil {
			fields["queue"] = event.Queue.Name
		}
		p.tell(fields)
	}
}

// stopClient returns when a client has stopped; "cancel" cancels its attempts at once.
func stopClient(ctx context.Context, p *program, line []byte) (any, error) {
	var params struct {
		Cancel bool   `json:"cancel"`
		ID     string `json:"id"`
	}
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	p.mu.Lock()
	client, ok := p.clients[params.ID]
	delete(p.clients, params.ID)
	p.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("client must be started, got %q", params.ID)
	}
	if params.Cancel {
		return nil, client.StopAndCancel(ctx)
	}
	return nil, client.Stop(ctx)
}

// control returns a client of a schema that does not work.
func (p *program) control(schema string) (*river.Client[pgx.Tx], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if client, ok := p.controls[schema]; ok {
		return client, nil
	}
	client, err := river.NewClient(riverpgxv5.New(p.pool), &river.Config{
		ID:            "go_control",
		FetchCooldown: time.Millisecond, // every insert of a test is announced, whatever the test before has inserted
		Logger:        quiet(),
		Schema:        schema,
	})
	if err == nil {
		p.controls[schema] = client
	}
	return client, err
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// plainHandler writes log lines without the time, so that they can be compared.
func plainHandler(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}})
}
