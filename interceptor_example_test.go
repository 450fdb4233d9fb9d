package lifeguard_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// serializationFailure is an error as PostgreSQL's drivers have it.
type serializationFailure struct{}

func (serializationFailure) Error() string    { return "could not serialize access" }
func (serializationFailure) SQLState() string { return "40001" }

// retry runs a statement again that failed because of another transaction. Inside a transaction that would be wrong: it
// is the transaction that has to be run again, and only the application can do that.
type retry struct {
	sqlmw.NullInterceptor
	attempts int
}

func (r retry) ConnExecContext(ctx context.Context, conn driver.ExecerContext, query string, args []driver.NamedValue) (driver.Result, error) {
	for attempt := 1; ; attempt++ {
		res, err := conn.ExecContext(ctx, query, args)
		var state interface{ SQLState() string }
		if !errors.As(err, &state) || state.SQLState() != "40001" || attempt == r.attempts || inTransaction(ctx) {
			return res, err
		}
		fmt.Printf("attempt %d: %v\n", attempt, err)
	}
}

// ConnBeginTx marks the context of the transaction. It reaches its end, but not its statements, which come with contexts
// of their own; so the application passes on a context that says the same.
func (r retry) ConnBeginTx(ctx context.Context, conn driver.ConnBeginTx, opts driver.TxOptions) (context.Context, driver.Tx, error) {
	tx, err := conn.BeginTx(ctx, opts)
	return withTransaction(ctx), tx, err
}

type transactionKey struct{}

func withTransaction(ctx context.Context) context.Context {
	return context.WithValue(ctx, transactionKey{}, true)
}

func inTransaction(ctx context.Context) bool { return ctx.Value(transactionKey{}) != nil }

// An interceptor that tries again.
func ExampleWithInterceptors_retry() {
	server := fakedriver.New() // a driver in memory; the first two statements fail
	failures := 2
	server.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
		if failures == 0 {
			return nil
		}
		failures--
		return serializationFailure{}
	})

	db, err := lifeguard.OpenDB(server.Connector(), lifeguard.WithInterceptors(retry{attempts: 3}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec("UPDATE accounts SET balance = balance - 10 WHERE id = 1")
	fmt.Println("in the end:", err)
	// Output:
	// attempt 1: could not serialize access
	// attempt 2: could not serialize access
	// in the end: <nil>
}

// tenant gives every query the tenant of its context as its first argument.
type tenant struct{ sqlmw.NullInterceptor }

type tenantKey struct{}

func (tenant) ConnQueryContext(ctx context.Context, conn driver.QueryerContext, query string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	id, ok := ctx.Value(tenantKey{}).(string)
	if !ok {
		return ctx, nil, errors.New("no tenant in the context")
	}
	all := []driver.NamedValue{{Ordinal: 1, Value: id}}
	for _, a := range args {
		a.Ordinal++
		all = append(all, a)
	}
	rows, err := conn.QueryContext(ctx, query, all)
	return ctx, rows, err
}

// An interceptor that rewrites arguments.
func ExampleWithInterceptors_arguments() {
	server := fakedriver.New()
	server.OnQuery(func(_ context.Context, _ *fakedriver.Conn, query string, args []driver.NamedValue) error {
		fmt.Print(query)
		for _, a := range args {
			fmt.Printf(" $%d=%v", a.Ordinal, a.Value)
		}
		fmt.Println()
		return nil
	})

	db, err := lifeguard.OpenDB(server.Connector(), lifeguard.WithInterceptors(tenant{}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	var n int
	ctx := context.WithValue(context.Background(), tenantKey{}, "blue")
	_ = db.QueryRowContext(ctx, "SELECT total FROM orders WHERE tenant = $1 AND id = $2", 7).Scan(&n)
	fmt.Println(db.QueryRow("SELECT total FROM orders WHERE tenant = $1 AND id = $2", 7).Scan(&n))
	// Output:
	// SELECT total FROM orders WHERE tenant = $1 AND id = $2 $1=blue $2=7
	// no tenant in the context
}

// record keeps what was run, for a test that wants to know.
type record struct {
	sqlmw.NullInterceptor
	statements *[]string
}

func (r record) note(what string) { *r.statements = append(*r.statements, what) }

func (r record) ConnExecContext(ctx context.Context, conn driver.ExecerContext, query string, args []driver.NamedValue) (driver.Result, error) {
	r.note(query)
	return conn.ExecContext(ctx, query, args)
}

func (r record) ConnQueryContext(ctx context.Context, conn driver.QueryerContext, query string, args []driver.NamedValue) (context.Context, driver.Rows, error) {
	r.note(query)
	rows, err := conn.QueryContext(ctx, query, args)
	return ctx, rows, err
}

func (r record) StmtExecContext(ctx context.Context, stmt driver.StmtExecContext, query string, args []driver.NamedValue) (driver.Result, error) {
	r.note(query)
	return stmt.ExecContext(ctx, args)
}

func (r record) ConnBeginTx(ctx context.Context, conn driver.ConnBeginTx, opts driver.TxOptions) (context.Context, driver.Tx, error) {
	r.note("BEGIN")
	tx, err := conn.BeginTx(ctx, opts)
	return ctx, tx, err
}

func (r record) TxCommit(_ context.Context, tx driver.Tx) error {
	r.note("COMMIT")
	return tx.Commit()
}

// An interceptor that keeps a record of what was run.
func ExampleWithInterceptors_record() {
	var statements []string
	db, err := lifeguard.OpenDB(fakedriver.New().Connector(), lifeguard.WithInterceptors(record{statements: &statements}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		log.Fatal(err)
	}
	_, _ = tx.Exec("INSERT INTO orders VALUES ($1)", 7)
	stmt, err := tx.Prepare("UPDATE stock SET left = left - 1 WHERE id = $1")
	if err != nil {
		log.Fatal(err)
	}
	_, _ = stmt.Exec(7)
	_ = tx.Commit()
	fmt.Println(strings.Join(statements, "\n"))
	// Output:
	// BEGIN
	// INSERT INTO orders VALUES ($1)
	// UPDATE stock SET left = left - 1 WHERE id = $1
	// COMMIT
}
