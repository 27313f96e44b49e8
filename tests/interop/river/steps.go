package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// errRolledBack is what a script's transaction is rolled back by.
var errRolledBack = errors.New("rolled back")

// stepAct plays the acts of steps that are more than numbers; known is false for any other.
func (w *actWorker) stepAct(ctx context.Context, job *river.Job[actArgs], one act) (known bool, err error) {
	switch one.verb() {
	case "raw_cursor_step": // a name, and the acts of the step; its cursor may be any JSON
		w.rawCursorStep(ctx, job, one)
	case "cursor": // the cursor of this step, from now on
		return true, river.ResumableSetCursor(ctx, one[1])
	case "checkpoint": // how its transaction ends, and a cursor if there is one
		return true, w.checkpoint(ctx, job, one)
	default:
		return false, nil
	}
	return true, nil
}

func (w *actWorker) rawCursorStep(ctx context.Context, job *river.Job[actArgs], one act) {
	var name string
	var acts []act
	one.into(&name, &acts)
	river.ResumableStepCursor(ctx, name, nil, func(ctx context.Context, cursor json.RawMessage) error {
		w.program.tell(map[string]any{
			"event": "step", "client": w.client, "job": job.ID, "attempt": job.Attempt, "step": name, "cursor": cursor,
		})
		return w.play(ctx, job, acts)
	})
}

func (w *actWorker) checkpoint(ctx context.Context, job *river.Job[actArgs], one act) error {
	err := pgx.BeginFunc(ctx, w.program.pool, func(tx pgx.Tx) error {
		var err error
		if len(one) > 2 {
			_, err = river.ResumableSetStepCursorTx[*riverpgxv5.Driver, pgx.Tx, actArgs](ctx, tx, job, one[2])
		} else {
			_, err = river.ResumableSetStepTx[*riverpgxv5.Driver, pgx.Tx, actArgs](ctx, tx, job)
		}
		if err == nil && one.text() != "commit" {
			err = errRolledBack
		}
		return err
	})
	if one.text() == "rollback" && errors.Is(err, errRolledBack) {
		return nil
	}
	return err
}
