// River's own Go client, which inserts as system_river.py orders, or works until SIGTERM.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"golang.org/x/sys/unix"
)

const (
	lanes    = 4
	numSlots = 2_000_000
)

type noopArgs struct {
	N int `json:"n"`
}

func (noopArgs) Kind() string { return "noop" }

type settings struct {
	Workers    int     `json:"workers"`
	CooldownMs float64 `json:"cooldown_ms"`
	PollMs     float64 `json:"poll_ms"`
	WaitMs     float64 `json:"wait_ms"`
}

type order struct {
	Word  string  `json:"word"`
	First int     `json:"first"`
	Count int     `json:"count"`
	Rate  float64 `json:"rate"`
}

type noopWorker struct {
	river.WorkerDefaults[noopArgs]
	slots []int64
	wait  time.Duration
}

func (w *noopWorker) Work(_ context.Context, job *river.Job[noopArgs]) error {
	now := monotonicNs() &^ 1
	if w.slots[job.Args.N] != 0 {
		now |= 1
	}
	w.slots[job.Args.N] = now
	if w.wait > 0 {
		time.Sleep(w.wait)
	}
	return nil
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func monotonicNs() int64 {
	var at unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &at))
	return at.Nano()
}

func milliseconds(value float64) time.Duration {
	return time.Duration(value * float64(time.Millisecond))
}

func main() {
	ctx := context.Background()
	pool := must(pgxpool.New(ctx, os.Getenv("BENCH_DATABASE")))
	defer pool.Close()
	if os.Args[1] == "insert" {
		insert(ctx, pool)
		return
	}
	work(ctx, pool)
}

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func work(ctx context.Context, pool *pgxpool.Pool) {
	var wanted settings
	check(json.Unmarshal([]byte(os.Getenv("BENCH_SETTINGS")), &wanted))
	config := &river.Config{Logger: silent(), Workers: river.NewWorkers()}
	if wanted.Workers == 0 {
		wanted.Workers = 100
	}
	config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: wanted.Workers}}
	if wanted.CooldownMs > 0 {
		config.FetchCooldown = milliseconds(wanted.CooldownMs)
	}
	if wanted.PollMs > 0 {
		config.FetchPollInterval = milliseconds(wanted.PollMs)
	}
	river.AddWorker(config.Workers, &noopWorker{slots: board(), wait: milliseconds(wanted.WaitMs)})
	client := must(river.NewClient(riverpgxv5.New(pool), config))
	check(client.Start(ctx))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	check(client.Stop(ctx))
}

func board() []int64 {
	file := must(os.OpenFile(os.Getenv("BENCH_BOARD"), os.O_RDWR, 0))
	mapped := must(syscall.Mmap(int(file.Fd()), 0, numSlots*8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED))
	return unsafe.Slice((*int64)(unsafe.Pointer(&mapped[0])), numSlots)
}

func insert(ctx context.Context, pool *pgxpool.Pool) {
	client := must(river.NewClient[pgx.Tx](riverpgxv5.New(pool), &river.Config{Logger: silent()}))
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		var wanted order
		check(json.Unmarshal(orders.Bytes(), &wanted))
		returned := []int64{}
		switch wanted.Word {
		case "each":
			for n := wanted.First; n < wanted.First+wanted.Count; n++ {
				must(client.Insert(ctx, noopArgs{n}, nil))
			}
		case "many":
			jobs := make([]river.InsertManyParams, wanted.Count)
			for i := range jobs {
				jobs[i].Args = noopArgs{wanted.First + i}
			}
			must(client.InsertMany(ctx, jobs))
		case "rate":
			returned = insertAtRate(ctx, client, wanted)
		}
		check(json.NewEncoder(os.Stdout).Encode(returned))
	}
}

func insertAtRate(ctx context.Context, client *river.Client[pgx.Tx], wanted order) []int64 {
	returned := make([]int64, wanted.Count)
	began := time.Now()
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() {
			for i := lane; i < wanted.Count; i += lanes {
				time.Sleep(time.Until(began.Add(time.Duration(float64(i) / wanted.Rate * float64(time.Second)))))
				must(client.Insert(ctx, noopArgs{wanted.First + i}, nil))
				returned[i] = monotonicNs()
			}
		})
	}
	all.Wait()
	return returned
}
