// Command river-interop is River, for the tests in the folder above: it is told over standard input what to do, one JSON
// object a line, and tells over standard output what it did and what happened.
//
//	{"call": 1, "op": "insert", "jobs": [{"kind": "act", "args": {"do": []}}]}
//	{"call": 1, "result": [{"skipped": false, "job": {"id": 7, ...}}]}
//	{"event": "begun", "client": "go_a", "job": 7, "attempt": 1, ...}
//
// Calls run side by side, so that a client that is being stopped can be spoken to. When standard input ends, all clients
// are stopped and the program with them.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"time"
	_ "time/tzdata"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// goodbye is how long clients are given when the program is to end.
const goodbye = 3 * time.Second

// program is everything that calls share.
type program struct {
	pool *pgxpool.Pool

	out sync.Mutex

	mu       sync.Mutex
	clients  map[string]*river.Client[pgx.Tx] // by id, those that work
	controls map[string]*river.Client[pgx.Tx] // by schema, those that only insert and control
	executed map[string][]executed            // by client, in the order in which attempts began
	held     map[int64]chan struct{}          // by job, attempts that wait to be released
	txs      map[string]pgx.Tx                // by name
}

func main() {
	applicationName := flag.String("application-name", "river_interop", "what the database calls its connections")
	databaseURL := flag.String("database-url", "", "the database to work on")
	maxConnections := flag.Int("max-connections", 20, "how many connections it opens at most")
	flag.Parse()
	ctx := context.Background()

	config, err := pgxpool.ParseConfig(*databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = int32(*maxConnections)
	config.ConnConfig.RuntimeParams["application_name"] = *applicationName
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	p := &program{
		pool:     pool,
		clients:  map[string]*river.Client[pgx.Tx]{},
		controls: map[string]*river.Client[pgx.Tx]{},
		executed: map[string][]executed{},
		held:     map[int64]chan struct{}{},
		txs:      map[string]pgx.Tx{},
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		go p.answer(ctx, append([]byte(nil), lines.Bytes()...))
	}
	p.stopAll(ctx)
}

// answer does what one line asks for, and says how it went.
func (p *program) answer(ctx context.Context, line []byte) {
	var call struct {
		Call int    `json:"call"`
		Op   string `json:"op"`
	}
	if err := json.Unmarshal(line, &call); err != nil {
		log.Fatalf("a line must be a call, got %q: %v", line, err)
	}
	result, err := p.do(ctx, call.Op, line)
	if err != nil {
		p.tell(map[string]any{"call": call.Call, "error": errorFields(err)})
		return
	}
	p.tell(map[string]any{"call": call.Call, "result": result})
}

// do runs an operation; River panics over some settings, and that is an answer too.
func (p *program) do(ctx context.Context, op string, line []byte) (result any, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			err = fmt.Errorf("panic: %v", recovered)
		}
	}()
	operation, ok := operations[op]
	if !ok {
		return nil, fmt.Errorf("op must be one that this program knows, got %q", op)
	}
	return operation(ctx, p, line)
}

// tell writes one line.
func (p *program) tell(fields map[string]any) {
	line, err := json.Marshal(fields)
	if err != nil {
		log.Fatal(err)
	}
	p.out.Lock()
	defer p.out.Unlock()
	if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
		os.Exit(1) // nobody listens any more
	}
}

func (p *program) stopAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	p.mu.Lock()
	clients := p.clients
	p.mu.Unlock()
	var stopping sync.WaitGroup
	for _, client := range clients {
		stopping.Go(func() { _ = client.StopAndCancel(ctx) })
	}
	stopping.Wait()
}

// errorFields is an error as a caller wants to compare it.
func errorFields(err error) map[string]any {
	fields := map[string]any{"text": err.Error()}
	var pgError *pgconn.PgError
	if errors.As(err, &pgError) {
		fields["sqlstate"], fields["constraint"] = pgError.Code, pgError.ConstraintName
	}
	switch {
	case errors.Is(err, rivertype.ErrNotFound):
		fields["is"] = "not_found"
	case errors.Is(err, rivertype.ErrJobRunning):
		fields["is"] = "job_running"
	}
	return fields
}
