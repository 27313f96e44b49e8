package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// chaosParams says what a client of the load test is like; it leads if it is elected.
type chaosParams struct {
	ID                string         `json:"id"`
	JobTimeoutSeconds float64        `json:"job_timeout_seconds"`
	Journal           string         `json:"journal"`
	Kinds             []string       `json:"kinds"`
	Queues            map[string]int `json:"queues"`
	RescueSeconds     float64        `json:"rescue_seconds"`
	RetrySeconds      float64        `json:"retry_seconds"`
	Schema            string         `json:"schema"`
}

// chaosArgs say how each attempt ends: the n-th as Acts says in its n-th place, or well where that says nothing, but not
// before the job was snoozed Snoozes times, from attempt SnoozeAt on.
type chaosArgs struct {
	kind string

	Acts     []string `json:"acts"`
	SnoozeAt int      `json:"snooze_at"`
	Snoozes  int      `json:"snoozes"`
	WorkMS   int      `json:"work_ms"`
}

func (a chaosArgs) Kind() string { return a.kind }

func (a chaosArgs) act(attempt, snoozes int) string {
	switch {
	case snoozes < a.Snoozes && attempt >= a.SnoozeAt:
		return "snooze"
	case attempt <= len(a.Acts):
		return a.Acts[attempt-1]
	default:
		return "complete"
	}
}

// chaosWorker writes the beginning and the end of each attempt into the journal, whatever becomes of the process.
type chaosWorker struct {
	river.WorkerDefaults[chaosArgs]

	journal *os.File
	retry   time.Duration
}

func (w *chaosWorker) NextRetry(*river.Job[chaosArgs]) time.Time { return time.Now().Add(w.retry) }

func (w *chaosWorker) Work(ctx context.Context, job *river.Job[chaosArgs]) error {
	var metadata struct {
		Snoozes int `json:"snoozes"`
	}
	if err := json.Unmarshal(job.Metadata, &metadata); err != nil {
		return err
	}
	act := job.Args.act(job.Attempt, metadata.Snoozes)
	w.note("begin", job, metadata.Snoozes, act)
	defer w.note("end", job, metadata.Snoozes, act)
	if act == "hold" {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(time.Duration(job.Args.WorkMS) * time.Millisecond)
	switch act {
	case "fail":
		return errors.New("boom")
	case "panic":
		panic("boom")
	case "snooze":
		return river.JobSnooze(w.retry)
	case "cancel":
		return river.JobCancel(errors.New("enough"))
	}
	return nil
}

// note writes one line by one call, so that lines of attempts side by side stay whole.
func (w *chaosWorker) note(what string, job *river.Job[chaosArgs], snoozes int, act string) {
	now := float64(time.Now().UnixMicro()) / 1e6
	line := fmt.Sprintf("%s %.6f %d %d %d %s\n", what, now, job.ID, job.Attempt, snoozes, act)
	if _, err := w.journal.WriteString(line); err != nil {
		os.Exit(1)
	}
}

// startChaos starts a client of the load test.
func startChaos(ctx context.Context, p *program, line []byte) (any, error) {
	var params chaosParams
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	journal, err := os.OpenFile(params.Journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	for _, kind := range params.Kinds {
		river.AddWorkerArgs(workers, chaosArgs{kind: kind}, &chaosWorker{journal: journal, retry: seconds(params.RetrySeconds)})
	}
	config := &river.Config{
		ID:                   params.ID,
		FetchCooldown:        10 * time.Millisecond,
		JobTimeout:           seconds(params.JobTimeoutSeconds),
		Logger:               quiet(),
		Queues:               map[string]river.QueueConfig{},
		RescueStuckJobsAfter: seconds(params.RescueSeconds),
		Schema:               params.Schema,
		TestOnly:             true, // a leader's services begin at once
		Workers:              workers,
	}
	for name, maxWorkers := range params.Queues {
		config.Queues[name] = river.QueueConfig{MaxWorkers: maxWorkers}
	}
	client, err := river.NewClient[pgx.Tx](riverpgxv5.New(p.pool), config)
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[params.ID] = client
	return client.ID(), nil
}
