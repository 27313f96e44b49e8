package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

const cursorOfSecondStep = 7

// echoWorker works the suite's jobs; each behavior is one way in which an attempt ends.
type echoWorker struct {
	river.WorkerDefaults[echoArgs]

	adapter  *adapter
	observed *observed
}

func (w *echoWorker) Work(ctx context.Context, job *river.Job[echoArgs]) error {
	switch job.Args.Behavior {
	case "":
		return nil
	case "barrier_output":
		if err := w.waitAt(ctx, job.Args.Message); err != nil {
			return err
		}
		return river.RecordOutput(ctx, map[string]string{"race": "worker"})
	case "barrier_wait":
		return w.waitAt(ctx, job.Args.Message)
	case "cancel":
		return river.JobCancel(errors.New("cancelled by conformance worker"))
	case "cancel_error":
		<-ctx.Done()
		return errors.New("conformance error after cancellation")
	case "cancel_panic":
		<-ctx.Done()
		panic("conformance panic after cancellation")
	case "cooperative_cancel":
		if ctx.Err() != nil {
			w.observed.add(&w.observed.CancelledAtStart)
		}
		<-ctx.Done()
		return ctx.Err()
	case "discard":
		return errors.New("conformance discard")
	case "error":
		return errors.New("conformance retryable error")
	case "ignored_cancel":
		select {}
	case "output":
		return river.RecordOutput(ctx, map[string]string{"message": job.Args.Message})
	case "panic":
		panic("conformance worker panic")
	case "resumable":
		w.resumable(ctx, job)
		return nil
	case "resumable_cursor":
		w.resumableCursor(ctx, job)
		return nil
	case "resumable_duplicate":
		for range 2 {
			river.ResumableStep(ctx, "first", nil, func(context.Context) error { return nil })
		}
		return nil
	case "sleep":
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(milliseconds(job.Args.DurationMS)):
			return nil
		}
	case "snooze_once", "snooze_then_cancel":
		return w.snooze(ctx, job)
	case "transactional_complete":
		return w.completeTx(ctx, job)
	}
	return fmt.Errorf("behavior must be one of the contract, got %q", job.Args.Behavior)
}

func (w *echoWorker) waitAt(ctx context.Context, name string) error {
	barrier, err := w.adapter.barrier(name)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-barrier:
		return nil
	}
}

func (w *echoWorker) snooze(ctx context.Context, job *river.Job[echoArgs]) error {
	var metadata map[string]json.RawMessage
	if err := json.Unmarshal(job.Metadata, &metadata); err != nil {
		return err
	}
	if _, ok := metadata["snoozes"]; !ok {
		return river.JobSnooze(milliseconds(max(job.Args.DurationMS, 1)))
	}
	if job.Args.Behavior == "snooze_once" {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (w *echoWorker) completeTx(ctx context.Context, job *river.Job[echoArgs]) error {
	if err := river.MetadataSet(ctx, "transactional_completion", true); err != nil {
		return err
	}
	tx, err := w.adapter.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver, pgx.Tx, echoArgs](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (w *echoWorker) resumable(ctx context.Context, job *river.Job[echoArgs]) {
	river.ResumableStep(ctx, "first", nil, func(context.Context) error {
		w.observed.add(&w.observed.ResumableFirstRuns)
		return nil
	})
	river.ResumableStep(ctx, "second", nil, func(context.Context) error {
		w.observed.add(&w.observed.ResumableSecondRuns)
		if job.Attempt == 1 {
			return errors.New("conformance resumable error")
		}
		return nil
	})
}

func (w *echoWorker) resumableCursor(ctx context.Context, job *river.Job[echoArgs]) {
	river.ResumableStep(ctx, "first", nil, func(ctx context.Context) error {
		return river.MetadataSet(ctx, "first_attempt", job.Attempt)
	})
	river.ResumableStepCursor(ctx, "second", nil, func(ctx context.Context, cursor int) error {
		if job.Attempt == 1 {
			if err := river.ResumableSetCursor(ctx, cursorOfSecondStep); err != nil {
				return err
			}
			return errors.New("conformance error with a cursor")
		}
		if cursor != cursorOfSecondStep {
			return fmt.Errorf("cursor must be %d, got %d", cursorOfSecondStep, cursor)
		}
		return river.MetadataSet(ctx, "cursor_observed", cursor)
	})
	river.ResumableStep(ctx, "third", nil, func(context.Context) error {
		if job.Attempt == 2 {
			return errors.New("conformance error after the cursor")
		}
		return nil
	})
}
