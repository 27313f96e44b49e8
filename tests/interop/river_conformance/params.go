package main

import (
	"encoding/json"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// params are the params of all methods; each reads its own.
type params struct {
	jobParams

	After           string               `json:"after"`
	All             bool                 `json:"all"`
	ApplicationName string               `json:"application_name"`
	Cancel          bool                 `json:"cancel"`
	Direction       string               `json:"direction"`
	DryRun          bool                 `json:"dry_run"`
	Handle          string               `json:"handle"`
	ID              int64                `json:"id"`
	IDs             []int64              `json:"ids"`
	Job             *jobParams           `json:"job"`
	Jobs            []jobParams          `json:"jobs"`
	Kind            string               `json:"kind"`
	Kinds           []string             `json:"kinds"`
	Limit           int                  `json:"limit"`
	MaxSteps        int                  `json:"max_steps"`
	Metadata        json.RawMessage      `json:"metadata"`
	MetadataJSON    string               `json:"metadata_json"`
	Name            string               `json:"name"`
	OrderBy         string               `json:"order_by"`
	Output          json.RawMessage      `json:"output"`
	Priorities      []int16              `json:"priorities"`
	Queues          []string             `json:"queues"`
	Schema          string               `json:"schema"`
	State           string               `json:"state"`
	States          []rivertype.JobState `json:"states"`
	TagsAll         []string             `json:"tags_all"`
	TagsAny         []string             `json:"tags_any"`
	TargetVersion   int                  `json:"target_version"`

	CancelledJobRetentionMS int64    `json:"cancelled_job_retention_ms"`
	ClaimBarrier            string   `json:"claim_barrier"`
	ClientID                string   `json:"client_id"`
	CompletedJobRetentionMS int64    `json:"completed_job_retention_ms"`
	DiscardedJobRetentionMS int64    `json:"discarded_job_retention_ms"`
	ElectIntervalMS         int64    `json:"elect_interval_ms"`
	ErrorHandlerCancel      bool     `json:"error_handler_cancel"`
	FetchPollIntervalMS     int64    `json:"fetch_poll_interval_ms"`
	Instrumented            bool     `json:"instrumented"`
	JobCleanerIntervalMS    int64    `json:"job_cleaner_interval_ms"`
	JobStuckThresholdMS     int64    `json:"job_stuck_threshold_ms"`
	JobTimeoutDisabled      bool     `json:"job_timeout_disabled"`
	JobTimeoutMS            int64    `json:"job_timeout_ms"`
	LeaderElectionDisabled  bool     `json:"leader_election_disabled"`
	MaxWorkers              int      `json:"max_workers"`
	PeriodicRunOnStart      bool     `json:"periodic_run_on_start"`
	PeriodicUnique          bool     `json:"periodic_unique"`
	PollOnly                bool     `json:"poll_only"`
	Queue                   string   `json:"queue"`
	QueueCleanerIntervalMS  int64    `json:"queue_cleaner_interval_ms"`
	ReindexerIndexNames     []string `json:"reindexer_index_names"`
	ReindexerIntervalMS     int64    `json:"reindexer_interval_ms"`
	RescueAfterMS           int64    `json:"rescue_after_ms"`
	RescuerIntervalMS       int64    `json:"rescuer_interval_ms"`
	RetryDelayMS            *int64   `json:"retry_delay_ms"`
	SchedulerIntervalMS     int64    `json:"scheduler_interval_ms"`
}

// jobParams is a job to insert.
type jobParams struct {
	Behavior   string     `json:"behavior"`
	DurationMS int64      `json:"duration_ms"`
	Message    string     `json:"message"`
	Opts       optsParams `json:"opts"`
}

type optsParams struct {
	MaxAttempts int             `json:"max_attempts"`
	Metadata    json.RawMessage `json:"metadata"`
	Pending     bool            `json:"pending"`
	Priority    int             `json:"priority"`
	Queue       string          `json:"queue"`
	ScheduledAt *time.Time      `json:"scheduled_at"`
	Tags        []string        `json:"tags"`
	Unique      struct {
		ByArgs      bool                 `json:"by_args"`
		ByPeriodMS  int64                `json:"by_period_ms"`
		ByQueue     bool                 `json:"by_queue"`
		ByState     []rivertype.JobState `json:"by_state"`
		ExcludeKind bool                 `json:"exclude_kind"`
	} `json:"unique"`
}

// echoArgs are the args of the suite's job.
type echoArgs struct {
	Behavior   string `json:"behavior"`
	DurationMS int64  `json:"duration_ms"`
	Message    string `json:"message"`
}

func (echoArgs) Kind() string { return "conformance_echo" }

func (j *jobParams) args() echoArgs { return echoArgs{j.Behavior, j.DurationMS, j.Message} }

func (j *jobParams) insertOpts() *river.InsertOpts {
	o := &j.Opts
	opts := &river.InsertOpts{
		MaxAttempts: o.MaxAttempts, Metadata: o.Metadata, Pending: o.Pending, Priority: o.Priority, Queue: o.Queue,
		Tags: o.Tags,
		UniqueOpts: river.UniqueOpts{
			ByArgs: o.Unique.ByArgs, ByPeriod: milliseconds(o.Unique.ByPeriodMS), ByQueue: o.Unique.ByQueue,
			ByState: o.Unique.ByState, ExcludeKind: o.Unique.ExcludeKind,
		},
	}
	if o.ScheduledAt != nil {
		opts.ScheduledAt = *o.ScheduledAt
	}
	return opts
}

func milliseconds(number int64) time.Duration { return time.Duration(number) * time.Millisecond }
