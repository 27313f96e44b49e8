// Command river-conformance is an adapter for River's conformance suite, written on River's public API. It reads requests
// of JSON-RPC 2.0 from standard input, one a line, and writes a response to each, in order.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

// The error codes of the contract.
const (
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeNotFound       = -32001
	codeRejected       = -32002
	codeDatabaseError  = -32003
	codeUnsupported    = -32004
)

// codedError is an error with its code.
type codedError struct {
	code int
	text string
}

func (e *codedError) Error() string { return e.text }

func coded(code int, format string, values ...any) error {
	return &codedError{code, fmt.Sprintf(format, values...)}
}

// adapter is what requests share. Workers use only the barriers.
type adapter struct {
	clients map[string]*river.Client[pgx.Tx] // by schema, those that work no jobs
	pool    *pgxpool.Pool
	running *running
	txs     map[string]pgx.Tx // by handle

	mu       sync.Mutex
	barriers map[string]chan struct{}
}

// method answers one request.
type method func(ctx context.Context, a *adapter, p *params) (any, error)

type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

func main() {
	databaseURL := flag.String("database-url", "", "the database to work on")
	applicationName := flag.String("application-name", "river-conformance-go", "the name of its connections")
	flag.Parse()
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(*databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 10
	config.BeforeAcquire = func(ctx context.Context, connection *pgx.Conn) bool { return connection.Ping(ctx) == nil } // some are cut
	config.ConnConfig.RuntimeParams["application_name"] = *applicationName
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	a := &adapter{
		barriers: map[string]chan struct{}{},
		clients:  map[string]*river.Client[pgx.Tx]{},
		pool:     pool,
		txs:      map[string]pgx.Tx{},
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if _, err := os.Stdout.Write(append(a.answer(ctx, lines.Bytes()), '\n')); err != nil {
			return
		}
	}
}

// answer returns the response to one line.
func (a *adapter) answer(ctx context.Context, line []byte) []byte {
	var asked request
	response := map[string]any{"jsonrpc": "2.0"}
	if err := json.Unmarshal(line, &asked); err != nil {
		log.Fatalf("request must be JSON, got %q", line)
	}
	response["id"] = asked.ID
	result, err := a.call(ctx, &asked)
	switch {
	case err != nil:
		response["error"] = map[string]any{"code": codeOf(err), "message": err.Error()}
	case result == nil:
		response["result"] = struct{}{}
	default:
		response["result"] = result
	}
	encoded, err := json.Marshal(response)
	if err != nil {
		log.Fatal(err)
	}
	return encoded
}

// call runs a method. River panics over some settings; that is an error too.
func (a *adapter) call(ctx context.Context, asked *request) (result any, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			err = fmt.Errorf("panic: %v", recovered)
		}
	}()
	found, ok := methods[asked.Method]
	if !ok {
		return nil, coded(codeMethodNotFound, "method must be one of the handshake, got %q", asked.Method)
	}
	var p params
	decoder := json.NewDecoder(bytes.NewReader(asked.Params))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return nil, coded(codeInvalidParams, "params are invalid: %v", err)
	}
	return found(ctx, a, &p)
}

func codeOf(err error) int {
	var own *codedError
	var database *pgconn.PgError
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, rivertype.ErrNotFound):
		return codeNotFound
	case errors.As(err, &database), errors.Is(err, pgx.ErrTxCommitRollback):
		return codeDatabaseError
	}
	return codeRejected
}

// client returns the running client, if it has this schema; else one that works no jobs.
func (a *adapter) client(schema string) (*river.Client[pgx.Tx], error) {
	if a.running != nil && a.running.schema == schema {
		return a.running.client, nil
	}
	if client, ok := a.clients[schema]; ok {
		return client, nil
	}
	client, err := river.NewClient(riverpgxv5.New(a.pool), &river.Config{Logger: quiet(), Schema: schema})
	if err == nil {
		a.clients[schema] = client
	}
	return client, err
}

// tx returns the transaction of a handle, or nil without a handle.
func (a *adapter) tx(handle string) (pgx.Tx, error) {
	if handle == "" {
		return nil, nil //nolint:nilnil // no transaction is asked for
	}
	tx, ok := a.txs[handle]
	if !ok {
		return nil, coded(codeNotFound, "handle must be one of tx_begin, got %q", handle)
	}
	return tx, nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func handshake(_ context.Context, _ *adapter, _ *params) (any, error) {
	return map[string]any{
		"adapter_version": 18, "backend": "postgres", "capabilities": []string{}, "implementation": "go",
		"implementation_version": "0.51.2", "methods": slices.Sorted(maps.Keys(methods)),
		"migration_lines": map[string]int{"main": 8}, "profile": "postgres-full-v1", "protocol_revision": 1,
	}, nil
}
