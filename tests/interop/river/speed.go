package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// insertMeasured inserts jobs of the load test that take a while and complete, and tells how many seconds that took: one
// by one, or so many at a time.
func insertMeasured(ctx context.Context, p *program, line []byte) (any, error) {
	var params struct {
		Batch  int    `json:"batch"`
		Count  int    `json:"count"`
		Kind   string `json:"kind"`
		Schema string `json:"schema"`
		WorkMS int    `json:"work_ms"`
	}
	if err := json.Unmarshal(line, &params); err != nil {
		return nil, err
	}
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	args := chaosArgs{kind: params.Kind, Acts: []string{}, WorkMS: params.WorkMS}
	began := time.Now()
	for done := 0; done < params.Count; done += params.Batch {
		if err := insertSome(ctx, client, args, min(params.Batch, params.Count-done)); err != nil {
			return nil, err
		}
	}
	return time.Since(began).Seconds(), nil
}

func insertSome(ctx context.Context, client *river.Client[pgx.Tx], args chaosArgs, count int) error {
	if count == 1 {
		_, err := client.Insert(ctx, args, nil)
		return err
	}
	many := make([]river.InsertManyParams, count)
	for i := range many {
		many[i] = river.InsertManyParams{Args: args}
	}
	_, err := client.InsertMany(ctx, many)
	return err
}
