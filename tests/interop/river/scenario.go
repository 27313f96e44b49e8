package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// working is a client that was started.
func (p *program) working(id string) (*river.Client[pgx.Tx], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	client, ok := p.clients[id]
	if !ok {
		return nil, fmt.Errorf("client must be started, got %q", id)
	}
	return client, nil
}

// cancelTx cancels a job in a transaction that was begun.
func cancelTx(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	tx, err := p.tx(params.Tx)
	if err != nil {
		return nil, err
	}
	job, err := client.JobCancelTx(ctx, tx, params.Job)
	if err != nil {
		return nil, err
	}
	return rowFields(job), nil
}

// addQueue has a client work one more queue, with as many workers as Limit says.
func addQueue(_ context.Context, p *program, params *params) (any, error) {
	client, err := p.working(params.ID)
	if err != nil {
		return nil, err
	}
	return nil, client.Queues().Add(params.Queue, river.QueueConfig{MaxWorkers: params.Limit})
}

// removeQueue returns when a client works a queue no more.
func removeQueue(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.working(params.ID)
	if err != nil {
		return nil, err
	}
	return nil, client.Queues().Remove(ctx, params.Queue)
}
