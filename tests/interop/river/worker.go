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
	"github.com/riverqueue/river/riverlog"
)

// actArgs is a script: the acts of an attempt, one after the other, each a list of a verb and what it needs. Attempts
// without acts left complete.
type actArgs struct {
	kind    string
	aliases []string

	Do []act `json:"do"`
}

type act []json.RawMessage

func (a actArgs) Kind() string          { return a.kind }
func (a actArgs) KindAliases() []string { return a.aliases }

// verb is the first word of an act.
func (a act) verb() string {
	var verb string
	if len(a) > 0 {
		_ = json.Unmarshal(a[0], &verb)
	}
	return verb
}

// into reads what comes behind the verb.
func (a act) into(values ...any) {
	for i, value := range values {
		if i+1 < len(a) {
			if err := json.Unmarshal(a[i+1], value); err != nil {
				panic(fmt.Sprintf("act %s: %v", a.verb(), err))
			}
		}
	}
}

func (a act) text() string {
	var text string
	a.into(&text)
	return text
}

func (a act) seconds() time.Duration {
	var seconds float64
	a.into(&seconds)
	return time.Duration(seconds * float64(time.Second))
}

// executed is one attempt that was begun.
type executed struct {
	Job      int64 `json:"job"`
	Attempt  int   `json:"attempt"`
	Priority int   `json:"priority"`
}

// actWorker plays the scripts of one kind for one client.
type actWorker struct {
	river.WorkerDefaults[actArgs]

	client  string
	isQuiet bool
	program *program
}

func (w *actWorker) Timeout(job *river.Job[actArgs]) time.Duration {
	return find(job.Args.Do, "timeout").seconds()
}

func (w *actWorker) NextRetry(job *river.Job[actArgs]) time.Time {
	if found := find(job.Args.Do, "retry_in"); found != nil {
		return time.Now().Add(found.seconds())
	}
	return time.Time{}
}

func (w *actWorker) Work(ctx context.Context, job *river.Job[actArgs]) error {
	w.program.note(w.client, executed{Job: job.ID, Attempt: job.Attempt, Priority: job.Priority})
	if !w.isQuiet {
		w.program.tell(map[string]any{
			"event": "begun", "client": w.client, "job": job.ID, "attempt": job.Attempt, "kind": job.Kind, "args": json.RawMessage(job.EncodedArgs),
		})
	}
	return w.play(ctx, job, job.Args.Do)
}

// play returns what an attempt returns: the error of the first act that ends it, or, if the last one was to wait and the
// context was cancelled, the context's own.
func (w *actWorker) play(ctx context.Context, job *river.Job[actArgs], acts []act) error {
	for i, one := range acts {
		if one.verb() == "hold" {
			if w.hold(ctx, job.ID) && i == len(acts)-1 {
				return ctx.Err()
			}
			continue
		}
		if err := w.act(ctx, job, one); err != nil {
			return err
		}
	}
	return nil
}

func (w *actWorker) act(ctx context.Context, job *river.Job[actArgs], one act) error {
	switch verb := one.verb(); verb {
	case "fail":
		return errors.New(one.text())
	case "fail_before": // an attempt
		var attempt int
		one.into(&attempt)
		if job.Attempt < attempt {
			return errors.New("too early")
		}
	case "panic":
		panic(one.text())
	case "snooze":
		return river.JobSnooze(one.seconds())
	case "snooze_times": // how often, for how many seconds
		var times, snoozes int
		var seconds float64
		one.into(&times, &seconds)
		var metadata struct {
			Snoozes *int `json:"snoozes"`
		}
		_ = json.Unmarshal(job.Metadata, &metadata)
		if metadata.Snoozes != nil {
			snoozes = *metadata.Snoozes
		}
		if snoozes < times {
			return river.JobSnooze(time.Duration(seconds * float64(time.Second)))
		}
	case "cancel":
		return river.JobCancel(errors.New(one.text()))
	case "output":
		return river.RecordOutput(ctx, one[1])
	case "metadata": // a key and a value
		return river.MetadataSet(ctx, one.text(), one[2])
	case "log":
		riverlog.Logger(ctx).InfoContext(ctx, one.text())
	case "return_cause":
		return context.Cause(ctx)
	case "complete_tx", "complete_tx_rolled_back":
		return w.completeTx(ctx, job, verb == "complete_tx")
	case "step", "cursor_step": // a name, and the acts of the step
		w.step(ctx, job, one)
	case "advance": // the cursor of this step
		return errors.New("advance must stand in a cursor_step")
	case "timeout", "retry_in":
	default:
		if known, err := w.stepAct(ctx, job, one); known {
			return err
		}
		return fmt.Errorf("verb must be one that this worker knows, got %q", verb)
	}
	return nil
}

// hold waits until the attempt is released (false) or its context is cancelled (true).
func (w *actWorker) hold(ctx context.Context, id int64) bool {
	released := make(chan struct{})
	w.program.mu.Lock()
	w.program.held[id] = released
	w.program.mu.Unlock()
	w.program.tell(map[string]any{"event": "held", "client": w.client, "job": id})
	select {
	case <-released:
		return false
	case <-ctx.Done():
		w.program.tell(map[string]any{"event": "context_done", "client": w.client, "job": id, "cause": fmt.Sprint(context.Cause(ctx))})
		return true
	}
}

func (w *actWorker) step(ctx context.Context, job *river.Job[actArgs], one act) {
	var name string
	var acts []act
	one.into(&name, &acts)
	told := func(cursor int) {
		w.program.tell(map[string]any{"event": "step", "client": w.client, "job": job.ID, "attempt": job.Attempt, "step": name, "cursor": cursor})
	}
	if one.verb() == "step" {
		river.ResumableStep(ctx, name, nil, func(ctx context.Context) error {
			told(0)
			return w.play(ctx, job, acts)
		})
		return
	}
	river.ResumableStepCursor(ctx, name, nil, func(ctx context.Context, cursor int) error {
		told(cursor)
		for len(acts) > 0 && acts[0].verb() == "advance" {
			var by int
			acts[0].into(&by)
			cursor += by
			if err := river.ResumableSetCursor(ctx, cursor); err != nil {
				return err
			}
			acts = acts[1:]
		}
		return w.play(ctx, job, acts)
	})
}

func (w *actWorker) completeTx(ctx context.Context, job *river.Job[actArgs], isCommitted bool) error {
	tx, err := w.program.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	completed, err := river.JobCompleteTx[*riverpgxv5.Driver, pgx.Tx, actArgs](ctx, tx, job)
	if err != nil {
		return err
	}
	w.program.tell(map[string]any{
		"event": "completed_tx", "client": w.client, "job": job.ID, "state": completed.State, "metadata": json.RawMessage(completed.Metadata),
	})
	if !isCommitted {
		return nil
	}
	return tx.Commit(ctx)
}

func (p *program) note(client string, one executed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.executed[client] = append(p.executed[client], one)
}

func find(acts []act, verb string) act {
	for _, one := range acts {
		if one.verb() == verb {
			return one
		}
	}
	return nil
}
