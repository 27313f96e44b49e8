package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

const (
	pollInterval = 10 * time.Millisecond
	stopTime     = 20 * time.Second
	waitTime     = 15 * time.Second
)

// running is a started client with what it observes.
type running struct {
	client   *river.Client[pgx.Tx]
	observed *observed
	schema   string
}

// observed are counters and traces, as `runtime_stats` returns them.
type observed struct {
	mu sync.Mutex

	CancelledAtStart    int      `json:"cancelled_at_start"`
	ErrorHandlerCalls   int      `json:"error_handler_calls"`
	Events              []string `json:"events"`
	PeriodicStarts      int      `json:"periodic_starts"`
	ResumableFirstRuns  int      `json:"resumable_first_runs"`
	ResumableSecondRuns int      `json:"resumable_second_runs"`
	StuckJobs           int      `json:"stuck_jobs"`
	Trace               []string `json:"trace"`
}

func (o *observed) add(counter *int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*counter++
}

func (o *observed) record(list *[]string, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*list = append(*list, text)
}

func (o *observed) encoded() (json.RawMessage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return json.Marshal(o)
}

func start(ctx context.Context, a *adapter, p *params) (any, error) {
	if a.running != nil {
		return nil, errors.New("client must be stopped first")
	}
	begun, err := a.begin(ctx, p)
	if err == nil {
		a.running = begun
	}
	return nil, err
}

func (a *adapter) begin(ctx context.Context, p *params) (*running, error) {
	if p.ElectIntervalMS+p.RescuerIntervalMS+p.SchedulerIntervalMS > 0 {
		return nil, coded(codeUnsupported, "River has no settings for these intervals")
	}
	if p.ClaimBarrier != "" {
		return nil, coded(codeUnsupported, "River's public API has no way to hold a fetch")
	}
	if p.PeriodicUnique && !p.PeriodicRunOnStart {
		return nil, errors.New("periodic_unique must come with periodic_run_on_start")
	}
	seen := &observed{Events: []string{}, Trace: []string{}}
	client, err := river.NewClient(riverpgxv5.New(a.pool), a.config(p, seen))
	if err != nil {
		return nil, err
	}
	events, _ := client.SubscribeConfig(&river.SubscribeConfig{ChanSize: 10_000, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobSnoozed,
		river.EventKindQueuePaused, river.EventKindQueueResumed,
	}})
	go func() {
		for event := range events {
			seen.record(&seen.Events, string(event.Kind))
		}
	}()
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	return &running{client, seen, p.Schema}, nil
}

func (a *adapter) config(p *params, seen *observed) *river.Config {
	workers := river.NewWorkers()
	river.AddWorker(workers, &echoWorker{adapter: a, observed: seen})
	queue, maxWorkers := p.Queue, p.MaxWorkers
	if queue == "" {
		queue = river.QueueDefault
	}
	if maxWorkers == 0 {
		maxWorkers = 4
	}
	config := &river.Config{
		CancelledJobRetentionPeriod: retention(p.CancelledJobRetentionMS),
		CompletedJobRetentionPeriod: retention(p.CompletedJobRetentionMS),
		DiscardedJobRetentionPeriod: retention(p.DiscardedJobRetentionMS),
		FetchCooldown:               time.Millisecond,
		FetchPollInterval:           milliseconds(p.FetchPollIntervalMS),
		Hooks:                       []rivertype.Hook{&periodicHook{observed: seen}},
		ID:                          p.ClientID,
		JobStuckHandler: func(context.Context, river.JobStuckHandlerParams) river.JobStuckHandlerResult {
			seen.add(&seen.StuckJobs)
			return river.JobStuckHandlerResult{}
		},
		JobStuckThreshold:      milliseconds(p.JobStuckThresholdMS),
		JobTimeout:             milliseconds(p.JobTimeoutMS),
		LeaderElectionDisabled: p.LeaderElectionDisabled,
		Logger:                 quiet(),
		PollOnly:               p.PollOnly,
		Queues:                 map[string]river.QueueConfig{queue: {MaxWorkers: maxWorkers}},
		ReindexerIndexNames:    p.ReindexerIndexNames,
		RescueStuckJobsAfter:   milliseconds(p.RescueAfterMS),
		Schema:                 p.Schema,
		TestOnly:               true, // a leader's services begin at once
		Workers:                workers,
	}
	if p.JobTimeoutDisabled {
		config.JobTimeout = -1
	}
	if p.ReindexerIntervalMS > 0 {
		config.ReindexerSchedule = river.PeriodicInterval(milliseconds(p.ReindexerIntervalMS))
	}
	if p.RetryDelayMS != nil {
		config.RetryPolicy = fixedDelay(milliseconds(*p.RetryDelayMS))
	}
	if p.ErrorHandlerCancel {
		config.ErrorHandler = &cancellingHandler{seen}
	}
	if p.Instrumented {
		config.Hooks = append(config.Hooks, &traceHook{observed: seen})
		config.Middleware = []rivertype.Middleware{&traceMiddleware{observed: seen}}
	}
	if p.PeriodicRunOnStart {
		unique := river.UniqueOpts{}
		if p.PeriodicUnique {
			unique = river.UniqueOpts{ByArgs: true, ByQueue: true}
		}
		config.PeriodicJobs = append(config.PeriodicJobs, periodic("conformance-periodic", "periodic run on start", unique))
	}
	if p.PeriodicUnique {
		config.PeriodicJobs = append(config.PeriodicJobs, periodic("conformance-periodic-marker", "periodic marker", river.UniqueOpts{}))
	}
	return config
}

// retention is how long jobs of a state are kept; -1 means for ever in the contract and in River.
func retention(number int64) time.Duration {
	if number < 0 {
		return -1
	}
	return milliseconds(number)
}

func periodic(id, message string, unique river.UniqueOpts) *river.PeriodicJob {
	constructor := func() (river.JobArgs, *river.InsertOpts) {
		return echoArgs{Message: message}, &river.InsertOpts{Metadata: []byte(`{"periodic": true}`), UniqueOpts: unique}
	}
	return river.NewPeriodicJob(river.PeriodicInterval(time.Hour), constructor, &river.PeriodicJobOpts{ID: id, RunOnStart: true})
}

func stop(ctx context.Context, a *adapter, p *params) (any, error) {
	if a.running == nil {
		return nil, errors.New("client must be started first")
	}
	client := a.running.client
	a.running = nil
	ctx, cancelTime := context.WithTimeout(ctx, stopTime)
	defer cancelTime()
	if p.Cancel {
		return nil, client.StopAndCancel(ctx)
	}
	return nil, client.Stop(ctx)
}

func runtimeStats(_ context.Context, a *adapter, _ *params) (any, error) {
	if a.running == nil {
		return nil, errors.New("client must be started first")
	}
	return a.running.observed.encoded()
}

func work(ctx context.Context, a *adapter, p *params) (any, error) {
	client, err := a.client(p.Schema)
	if err != nil {
		return nil, err
	}
	job, err := client.JobGet(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	id := p.ClientID
	if id == "" {
		id = "go-conformance-adapter"
	}
	begun, err := a.begin(ctx, &params{ClientID: id, MaxWorkers: 1, Queue: job.Queue, Schema: p.Schema})
	if err != nil {
		return nil, err
	}
	result, err := wait(ctx, a, p)
	if stopped := begun.client.Stop(ctx); err == nil {
		err = stopped
	}
	return result, err
}

func wait(ctx context.Context, a *adapter, p *params) (any, error) {
	states := p.States
	if len(states) == 0 {
		states = []rivertype.JobState{rivertype.JobStateCancelled, rivertype.JobStateCompleted, rivertype.JobStateDiscarded}
	}
	client, err := a.client(p.Schema)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(waitTime); ; time.Sleep(pollInterval) {
		job, err := client.JobGet(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		if slices.Contains(states, job.State) {
			return normalized(job), nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("job %d must be in %v, got %s", p.ID, states, job.State)
		}
	}
}

func barrierCreate(_ context.Context, a *adapter, p *params) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.barriers[p.Name] = make(chan struct{})
	return nil, nil
}

func barrierRelease(_ context.Context, a *adapter, p *params) (any, error) {
	barrier, err := a.barrier(p.Name)
	if err != nil {
		return nil, err
	}
	select {
	case <-barrier:
	default:
		close(barrier)
	}
	return nil, nil
}

func (a *adapter) barrier(name string) (chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	barrier, ok := a.barriers[name]
	if !ok {
		return nil, coded(codeNotFound, "barrier must be one of barrier_create, got %q", name)
	}
	return barrier, nil
}

func queueAdd(ctx context.Context, a *adapter, p *params) (any, error) {
	if a.running == nil {
		return nil, errors.New("client must be started first")
	}
	queues, config := a.running.client.Queues(), river.QueueConfig{MaxWorkers: max(p.MaxWorkers, 1)}
	err := queues.Add(p.Name, config)
	if errors.Is(err, &river.QueueAlreadyAddedError{}) {
		if err := queues.Remove(ctx, p.Name); err != nil {
			return nil, err
		}
		err = queues.Add(p.Name, config)
	}
	return nil, err
}

func queueRemove(ctx context.Context, a *adapter, p *params) (any, error) {
	if a.running == nil {
		return nil, errors.New("client must be started first")
	}
	return nil, a.running.client.Queues().Remove(ctx, p.Name)
}

// The parts of a client.

type fixedDelay time.Duration

func (d fixedDelay) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(time.Duration(d)) }

type cancellingHandler struct{ observed *observed }

func (h *cancellingHandler) HandleError(context.Context, *rivertype.JobRow, error) *river.ErrorHandlerResult {
	h.observed.add(&h.observed.ErrorHandlerCalls)
	return &river.ErrorHandlerResult{SetCancelled: true}
}

func (h *cancellingHandler) HandlePanic(context.Context, *rivertype.JobRow, any, string) *river.ErrorHandlerResult {
	h.observed.add(&h.observed.ErrorHandlerCalls)
	return &river.ErrorHandlerResult{SetCancelled: true}
}

type periodicHook struct {
	river.HookDefaults

	observed *observed
}

func (h *periodicHook) Start(context.Context, *rivertype.HookPeriodicJobsStartParams) error {
	h.observed.add(&h.observed.PeriodicStarts)
	return nil
}

type traceHook struct {
	river.HookDefaults

	observed *observed
}

func (h *traceHook) InsertBegin(context.Context, *rivertype.JobInsertParams) error {
	h.observed.record(&h.observed.Trace, "hook:insert_begin")
	return nil
}

func (h *traceHook) WorkBegin(context.Context, *rivertype.JobRow) error {
	h.observed.record(&h.observed.Trace, "hook:work_begin")
	return nil
}

func (h *traceHook) WorkEnd(_ context.Context, _ *rivertype.JobRow, err error) error {
	h.observed.record(&h.observed.Trace, "hook:work_end")
	return err
}

type traceMiddleware struct {
	river.MiddlewareDefaults

	observed *observed
}

func (m *traceMiddleware) InsertMany(ctx context.Context, _ []*rivertype.JobInsertParams, doInner func(context.Context) ([]*rivertype.JobInsertResult, error)) ([]*rivertype.JobInsertResult, error) {
	m.observed.record(&m.observed.Trace, "middleware:insert_before")
	defer m.observed.record(&m.observed.Trace, "middleware:insert_after")
	return doInner(ctx)
}

func (m *traceMiddleware) Work(ctx context.Context, _ *rivertype.JobRow, doInner func(context.Context) error) error {
	m.observed.record(&m.observed.Trace, "middleware:work_before")
	defer m.observed.record(&m.observed.Trace, "middleware:work_after")
	return doInner(ctx)
}
