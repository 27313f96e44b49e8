package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

func init() {
	operations["struct_insert"] = with(insertParcel)
	operations["struct_work"] = with(startParcels)
}

// tenant is embedded: its fields stand among those of the struct around it.
type tenant struct {
	TenantID int64  `json:"tenant_id"`
	TraceID  string `json:"traceId,omitempty"`
}

type address struct {
	Street string  `json:"street"`
	Unit   *string `json:"unit"`
}

// parcelArgs have what Go's structs have: names of their own, fields that are left out or null, and numbers, bytes,
// instants and durations as Go writes them.
type parcelArgs struct {
	tenant

	ID       int64             `json:"parcelID"`
	Address  address           `json:"address"`
	Content  []byte            `json:"content"`
	Counts   map[int]uint64    `json:"counts"`
	Due      *time.Time        `json:"due"`
	Items    []address         `json:"items"`
	Labels   map[string]string `json:"labels"`
	Note     string            `json:"note,omitempty"`
	Return   *address          `json:"return,omitempty"`
	SentAt   time.Time         `json:"sent_at"`
	Serial   uint64            `json:"serial,string"`
	Skipped  string            `json:"-"`
	Timeout  time.Duration     `json:"timeout"`
	Untagged string
	Weight   float64 `json:"weight,omitempty"`
}

func (parcelArgs) Kind() string { return "parcel" }

// fullParcel has a value in each field.
func fullParcel() parcelArgs {
	unit := "b <2>"
	due := time.Date(2031, 12, 31, 23, 59, 59, 0, time.UTC)
	return parcelArgs{
		tenant:   tenant{TenantID: 1<<63 - 1, TraceID: "t-1"},
		ID:       1<<53 + 1,
		Address:  address{"Hauptstraße", &unit},
		Content:  []byte{0, 1, 0xfe, 0xff},
		Counts:   map[int]uint64{-7: 1<<64 - 1, 11: 0},
		Due:      &due,
		Items:    []address{{Street: "a"}, {Street: "b", Unit: &unit}},
		Labels:   map[string]string{"b": "2", "a": "1"},
		Note:     "fragile",
		Return:   &address{Street: "c"},
		SentAt:   time.Date(2026, 11, 25, 10, 20, 30, 123_456_789, time.FixedZone("", 5*3600+1800)),
		Serial:   1<<64 - 1,
		Skipped:  "never seen",
		Timeout:  90*time.Second + time.Nanosecond,
		Untagged: "as it is",
		Weight:   2.5e-7,
	}
}

// parcel is the full one, with the microseconds that Python has, or the empty one.
func parcel(which string) parcelArgs {
	switch which {
	case "full":
		return fullParcel()
	case "micro":
		args := fullParcel()
		args.SentAt = args.SentAt.Truncate(time.Microsecond)
		return args
	default:
		return parcelArgs{}
	}
}

// insertParcel inserts the one that `id` names, unless its args are there already, and returns the args as Go wrote them.
func insertParcel(ctx context.Context, p *program, params *params) (any, error) {
	client, err := p.control(params.Schema)
	if err != nil {
		return nil, err
	}
	args := parcel(params.ID)
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	opts := &river.InsertOpts{Queue: params.Queue, UniqueOpts: river.UniqueOpts{ByArgs: true}}
	inserted, err := client.Insert(ctx, args, opts)
	if err != nil {
		return nil, err
	}
	return map[string]any{"id": inserted.Job.ID, "skipped": inserted.UniqueSkippedAsDuplicate, "encoded": string(encoded)}, nil
}

type parcelWorker struct {
	river.WorkerDefaults[parcelArgs]

	program *program
}

func (w *parcelWorker) Work(_ context.Context, job *river.Job[parcelArgs]) error {
	encoded, err := json.Marshal(job.Args)
	w.program.tell(map[string]any{"event": "parcel", "job": job.ID, "encoded": string(encoded)})
	return err
}

// startParcels starts a client that tells how the parcels look that it works.
func startParcels(ctx context.Context, p *program, params *params) (any, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &parcelWorker{program: p})
	client, err := river.NewClient[pgx.Tx](riverpgxv5.New(p.pool), &river.Config{
		FetchCooldown:          10 * time.Millisecond,
		FetchPollInterval:      50 * time.Millisecond,
		ID:                     params.ID,
		LeaderElectionDisabled: true,
		Logger:                 quiet(),
		Queues:                 map[string]river.QueueConfig{params.Queue: {MaxWorkers: 1}},
		Schema:                 params.Schema,
		Workers:                workers,
	})
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
