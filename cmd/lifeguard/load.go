package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	sqlitedriver "modernc.org/sqlite"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// load runs the query of a plan.
type load struct {
	source *source
	plan   plan
	dsn    string  // the driver's, read-only on SQLite
	side   *sql.DB // one connection beside the pool: it judges the query, and reads the server's load
	pooled bool    // settings of a session would reach other clients, and statements may not outlive a transaction
}

// sideTimeout is for what comes before a measurement: looking at the server, judging the query, opening the connections.
const sideTimeout = 10 * time.Second

const limitAttached = 7 // SQLite's number of the limit of attached files

func newLoad(ctx context.Context, s *source, p plan) (*load, error) {
	l := &load{source: s, plan: p, dsn: s.driverDSN}
	if s.system == sqlite && !p.allowWrites && s.file() != "" {
		l.dsn = readOnlyFile(s.driverDSN)
	}
	var err error
	if l.side, err = sql.Open(s.system, l.dsn); err != nil {
		return nil, s.explain(err)
	}
	l.side.SetMaxOpenConns(1)
	if err := l.prepare(ctx); err != nil {
		l.close()
		var usage usageError
		if errors.As(err, &usage) {
			return nil, err
		}
		return nil, s.explain(err)
	}
	return l, nil
}

func (l *load) close() { l.side.Close() }

// readOnlyFile has SQLite open the file for reading alone.
func readOnlyFile(text string) string {
	parts := dsn.Split(text)
	own := make([]bool, len(parts.Settings))
	for i, s := range parts.Settings {
		own[i] = s.Name == "mode"
	}
	if text = parts.Without(own); !strings.HasPrefix(text, "file:") {
		text = "file:" + strings.NewReplacer("%", "%25", "#", "%23").Replace(text) // a path has neither meaning
	}
	if strings.Contains(text, "?") {
		return text + "&mode=ro"
	}
	return text + "?mode=ro"
}

// prepare looks for a pooler, and has the server judge the query.
func (l *load) prepare(ctx context.Context) error {
	conn, err := l.side.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if l.source.system == postgres {
		if l.pooled, err = behindPooler(ctx, conn); err != nil {
			return err
		}
		l.pooled = l.pooled || l.source.config.PgBouncer
	}
	if l.plan.allowWrites {
		return nil
	}
	if l.source.system == sqlite {
		return l.judgeSQLite(ctx, conn)
	}
	return l.judge(ctx, conn)
}

// judgeSQLite runs the query once. mode=ro protects the file of the DSN alone, and the query may turn query_only off; so
// no other file can be attached, which ATTACH and VACUUM INTO would do.
func (l *load) judgeSQLite(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "PRAGMA query_only = ON"); err != nil {
		return err
	}
	if _, err := sqlitedriver.Limit(conn, limitAttached, 0); err != nil {
		return err
	}
	return refused(drain(conn.QueryContext(ctx, l.plan.query)))
}

// judge runs the query once, in a transaction that cannot write. It is prepared first, because the server refuses to
// prepare two statements in one text, of which the first might end the transaction; and so is its EXPLAIN, because SET,
// CALL and the like have none. The EXPLAIN is not run.
func (l *load) judge(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	stmt, err := tx.PrepareContext(ctx, l.plan.query)
	if err != nil {
		return refused(err)
	}
	defer stmt.Close()
	explain, err := tx.PrepareContext(ctx, "EXPLAIN "+l.plan.query)
	if err != nil {
		return refused(err)
	}
	defer explain.Close()
	return refused(drain(stmt.QueryContext(ctx)))
}

func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(err.Error(), "sql: expected "), strings.HasPrefix(err.Error(), "missing named argument "),
		strings.HasPrefix(err.Error(), "missing argument "):
		return usagef("--query has arguments; write values in their place")
	}
	return usagef("the server refuses the query in a read-only transaction: %w; write a SELECT, or --allow-writes if it may write", err)
}

func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

// readOnly makes a session's transactions read-only. Behind a pooler each operation says so instead.
func (l *load) readOnly(ctx context.Context, conn *sql.Conn) error {
	text := map[string]string{
		postgres: "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
		mysql:    "SET SESSION TRANSACTION READ ONLY",
		sqlite:   "PRAGMA query_only = ON",
	}[l.source.system]
	_, err := conn.ExecContext(ctx, text)
	return err
}

func (l *load) open(limit int) (*sql.DB, error) {
	config := l.source.config
	config.ConnectionLimit, config.MaxIdleConnections, config.MinConnections = limit, limit, limit
	config.PoolTimeout, config.MaxWaiting, config.PoolName = time.Minute, 0, ""
	config.SlowQueryThreshold, config.LeakThreshold, config.LeakReclaimAfter = 0, 0, 0
	config.Trace, config.QueryLog = lifeguard.TraceOff, lifeguard.QueryLogOff
	opts := []lifeguard.Option{lifeguard.WithConfig(config), lifeguard.WithLogger(slog.New(slog.DiscardHandler))}
	if !l.plan.allowWrites && !l.pooled {
		opts = append(opts, lifeguard.WithAfterConnect(l.readOnly))
	}
	return lifeguard.Open(l.source.system, l.dsn, opts...)
}

// run measures one limit. A tenth of the duration goes by before anything counts. The error is the first of a query.
func (l *load) run(ctx context.Context, limit int) (level, error) {
	none := level{Limit: limit}
	db, err := l.open(limit)
	if err != nil {
		return none, err
	}
	defer db.Close()
	do, err := l.operation(ctx, db)
	if err != nil {
		return none, err
	}
	if err := l.warm(ctx, db); err != nil {
		return none, err
	}
	began := time.Now()
	counted, end := began.Add(l.plan.duration/10), began.Add(l.plan.duration+l.plan.duration/10)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	clients := make([]client, l.plan.clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { clients[i].work(ctx, do, counted) }) // ends with ctx
	}
	server := l.sample(ctx, counted)
	all.Wait()
	sum := client{}
	for _, c := range clients {
		sum.took, sum.errors = append(sum.took, c.took...), sum.errors+c.errors
		if sum.failed == nil {
			sum.failed = c.failed
		}
	}
	m := level{Limit: limit, Errors: sum.errors, Load: server}
	if n := len(sum.took); n > 0 {
		slices.Sort(sum.took)
		m.Throughput = float64(n) / end.Sub(counted).Seconds()
		m.P50, m.P99 = float64(sum.took[n/2])/1e6, float64(sum.took[n*99/100])/1e6
	}
	return m, sum.failed
}

// warm opens all connections: a limit is measured when it is reached, however long a dial takes.
func (l *load) warm(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	pool, _ := lifeguard.PoolOf(db)
	return pool.Ready(ctx)
}

// operation gives what a client does: the prepared query, or behind a pooler a transaction that says it only reads.
func (l *load) operation(ctx context.Context, db *sql.DB) (func(context.Context) error, error) {
	switch {
	case l.pooled && !l.plan.allowWrites:
		return func(ctx context.Context) error {
			tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			return errors.Join(drain(tx.QueryContext(ctx, l.plan.query)), tx.Rollback())
		}, nil
	case l.pooled:
		return func(ctx context.Context) error { return drain(db.QueryContext(ctx, l.plan.query)) }, nil
	}
	stmt, err := db.PrepareContext(ctx, l.plan.query) // closed with db
	if err != nil {
		return nil, fmt.Errorf("preparing the query: %w", err)
	}
	return func(ctx context.Context) error { return drain(stmt.QueryContext(ctx)) }, nil
}

// client is one of those that run the query.
type client struct {
	took   []time.Duration
	errors int
	failed error // the first
}

// pause is between two failures of one client, so that a dead server is not hammered.
const pause = 10 * time.Millisecond

func (c *client) work(ctx context.Context, do func(context.Context) error, counted time.Time) {
	for ctx.Err() == nil {
		began := time.Now()
		err := do(ctx)
		switch {
		case ctx.Err() != nil: // cut short
		case err != nil:
			if c.errors++; c.failed == nil {
				c.failed = err
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		case began.After(counted):
			c.took = append(c.took, time.Since(began))
		}
	}
}

// sample reads how many sessions work on the server, until ctx ends, and gives the mean; nil if there was no reading.
// The reader's own session is not counted.
func (l *load) sample(ctx context.Context, counted time.Time) *float64 {
	text := map[string]string{
		postgres: "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
		mysql:    "SELECT variable_value - 1 FROM information_schema.global_status WHERE variable_name = 'THREADS_RUNNING'",
	}[l.source.system]
	sum, n := 0.0, 0
	tick := time.NewTicker(max(l.plan.duration/20, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if n == 0 {
				return nil
			}
			mean := sum / float64(n)
			return &mean
		case now := <-tick.C:
			var active float64
			if text != "" && now.After(counted) && l.side.QueryRowContext(ctx, text).Scan(&active) == nil {
				sum, n = sum+active, n+1
			}
		}
	}
}
