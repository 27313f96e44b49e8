// Command otelriver is a client of River with otelriver, for test_interop_traces.py.
//
//	otelriver insert    inserts one job of kind py_echo into the queue py, in the span of a request
//	otelriver work      works one job of kind go_echo from the queue go
//
// It prints its spans, one JSON object a line.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"github.com/riverqueue/rivercontrib/otelriver"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const patience = 30 * time.Second

type pyEcho struct{}

func (pyEcho) Kind() string { return "py_echo" }

type goEcho struct{}

func (goEcho) Kind() string { return "go_echo" }

type goWorker struct{ river.WorkerDefaults[goEcho] }

func (*goWorker) Work(context.Context, *river.Job[goEcho]) error { return nil }

func main() {
	ctx := context.Background()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	if err := run(ctx, os.Args[1], provider); err != nil {
		log.Fatal(err)
	}
	for _, span := range exporter.GetSpans() {
		links := []string{}
		for _, link := range span.Links {
			links = append(links, ids(link.SpanContext))
		}
		line, err := json.Marshal(map[string]any{"name": span.Name, "ids": ids(span.SpanContext), "links": links})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(line))
	}
}

func ids(span trace.SpanContext) string {
	return span.TraceID().String() + "-" + span.SpanID().String()
}

func run(ctx context.Context, mode string, provider *sdk.TracerProvider) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	middleware := otelriver.NewMiddleware(&otelriver.MiddlewareConfig{
		EnableTracePropagation: true,
		TracerProvider:         provider,
	})
	config := &river.Config{Middleware: []rivertype.Middleware{middleware}, SkipUnknownJobCheck: true}
	if mode == "work" {
		config.Workers = river.NewWorkers()
		river.AddWorker(config.Workers, &goWorker{})
		config.Queues = map[string]river.QueueConfig{"go": {MaxWorkers: 4}}
	}
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		return err
	}
	if mode == "insert" {
		ctx, span := provider.Tracer("app").Start(ctx, "request")
		defer span.End()
		_, err := client.Insert(ctx, pyEcho{}, &river.InsertOpts{Queue: "py"})
		return err
	}
	completed, unsubscribe := client.Subscribe(river.EventKindJobCompleted)
	defer unsubscribe()
	if err := client.Start(ctx); err != nil {
		return err
	}
	select {
	case <-completed:
	case <-time.After(patience):
		log.Fatal("no job was completed")
	}
	return client.Stop(ctx)
}
