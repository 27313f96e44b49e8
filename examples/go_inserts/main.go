// Command orders takes orders and leaves the work to Python: it inserts a job in the transaction of each order, with
// River. The worker in worker.py works it, with Millhand.
//
//	go run . 'ada@example.com' 3
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

const createOrders = `
CREATE TABLE IF NOT EXISTS orders (
    id bigserial PRIMARY KEY,
    customer text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    invoice text
)`

// WriteInvoiceArgs are the args of a job that only Python can work. The JSON names are the fields of its dataclass.
type WriteInvoiceArgs struct {
	OrderID  int64  `json:"order_id"`
	Customer string `json:"customer"`
}

// Kind selects the worker, in any language.
func (WriteInvoiceArgs) Kind() string { return "write_invoice" }

// InsertOpts put these jobs into a queue of Python's own, so that no Go worker fetches them.
func (WriteInvoiceArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{MaxAttempts: 5, Queue: "python"}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: orders CUSTOMER QUANTITY")
	}
	quantity, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatalf("QUANTITY must be a whole number, got %q", os.Args[2])
	}
	if err := run(context.Background(), os.Args[1], quantity); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, customer string, quantity int) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, createOrders); err != nil {
		return err
	}
	// Without queues and workers, the client only inserts.
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{})
	if err != nil {
		return err
	}
	// The order and its job are committed together, or not at all.
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		return takeOrder(ctx, client, tx, customer, quantity)
	})
}

func takeOrder(ctx context.Context, client *river.Client[pgx.Tx], tx pgx.Tx, customer string, quantity int) error {
	var orderID int64
	insert := "INSERT INTO orders (customer, quantity) VALUES ($1, $2) RETURNING id"
	if err := tx.QueryRow(ctx, insert, customer, quantity).Scan(&orderID); err != nil {
		return err
	}
	inserted, err := client.InsertTx(ctx, tx, WriteInvoiceArgs{OrderID: orderID, Customer: customer}, nil)
	if err != nil {
		return err
	}
	fmt.Printf("order %d has job %d\n", orderID, inserted.Job.ID)
	return nil
}
