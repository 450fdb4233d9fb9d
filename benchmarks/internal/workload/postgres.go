package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// postgres is what services do all day, as fast as it goes.
type postgres struct{}

const (
	postgresConnections = 10
	accounts            = 10_000
	preparedTitle       = "The query by primary key, prepared once"
	pointQuery          = "SELECT balance FROM accounts WHERE id = $1"
)

// postgresTables makes what the queries of postgres and memory work on.
var postgresTables = []string{
	"DROP TABLE IF EXISTS accounts, events",
	"CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL, balance bigint NOT NULL)",
	fmt.Sprintf("INSERT INTO accounts SELECT n, 'Account number ' || n, 1000 FROM generate_series(1, %d) n", accounts),
	"CREATE TABLE events (id bigserial PRIMARY KEY, account int NOT NULL, note text NOT NULL)",
	"VACUUM ANALYZE accounts",
}

// A job is one thing to do again and again.
type job struct {
	name  string
	title string
	run   func(ctx context.Context, pool candidate.Pool, st candidate.Statement, id int) error
}

var jobs = []job{
	{"select1", "SELECT 1", func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, _ int) error {
		_, err := pool.Int(ctx, "SELECT 1")
		return err
	}},
	{"point", "Query by primary key, one argument", func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		_, err := pool.Int(ctx, pointQuery, id)
		return err
	}},
	{"insert", "INSERT of two values", func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		return pool.Exec(ctx, "INSERT INTO events (account, note) VALUES ($1, $2)", id, "an event of the comparison")
	}},
	{"transaction", "Transaction of three statements", func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		return pool.Tx(ctx, func(tx candidate.Tx) error {
			if _, err := tx.Int(ctx, "SELECT balance FROM accounts WHERE id = $1 FOR UPDATE", id); err != nil {
				return err
			}
			if err := tx.Exec(ctx, "UPDATE accounts SET balance = balance + $1 WHERE id = $2", 1, id); err != nil {
				return err
			}
			return tx.Exec(ctx, "INSERT INTO events (account, note) VALUES ($1, $2)", id, "a transaction")
		})
	}},
	{"rows", "Query of 1,000 rows", func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, _ int) error {
		n, err := pool.Pairs(ctx, "SELECT id, name FROM accounts ORDER BY id LIMIT 1000")
		if err == nil && n != 1000 {
			err = fmt.Errorf("%d rows, want 1000", n)
		}
		return err
	}},
	{"prepared", preparedTitle, func(ctx context.Context, _ candidate.Pool, st candidate.Statement, id int) error {
		_, err := st.Int(ctx, id)
		return err
	}},
}

func (postgres) Name() string { return "postgres" }

// part is what is measured behind one network.
type part struct {
	delay   time.Duration
	jobs    []job
	clients []int
}

func (w postgres) Run(ctx context.Context, r *Run) (*Section, error) {
	clients := pick(r, []int{1, 8, 64, 512}, []int{1, 64})
	parts := []part{
		{delay: 0, jobs: jobs, clients: clients},
		{delay: time.Millisecond, jobs: pick(r, jobs, jobs[1:2]), clients: clients},
	}
	if err := script(ctx, r, postgresTables); err != nil {
		return nil, err
	}
	s := &Section{
		Title: "PostgreSQL: what services do all day",
		Text: fmt.Sprintf("Operations per second of 1 to 512 goroutines on %d connections, without pause, over TCP on "+
			"the loopback interface; then with 1 ms of network in each direction, added by a proxy. Identifiers are "+
			"drawn from %s rows.",
			postgresConnections, report.Count.Format(accounts)),
		Cause: w.cause,
	}
	for _, p := range parts {
		tables, err := w.runPart(ctx, r, p)
		if err != nil {
			return nil, err
		}
		s.Tables = append(s.Tables, tables...)
		for i, j := range p.jobs {
			if j.name == "point" {
				s.Pictures = append(s.Pictures, w.picture(r, p, tables[i]))
			}
		}
	}
	return s, nil
}

// script runs statements one after another, on the baseline.
func script(ctx context.Context, r *Run, statements []string) error {
	return withPool(ctx, candidate.All()[0], r.DSN, candidate.Settings{Connections: 1}, func(pool candidate.Pool) error {
		for _, text := range statements {
			if err := pool.Exec(ctx, text); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p part) name() string {
	if p.delay == 0 {
		return "no delay"
	}
	return report.Duration(p.delay) + " each way"
}

func clientsColumn(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return strconv.Itoa(n)
}

// ready is an opened candidate with its statement.
type ready struct {
	pool      candidate.Pool
	statement candidate.Statement
	reason    string // why there is no statement
}

// runPart returns a table for each job.
func (w postgres) runPart(ctx context.Context, r *Run, p part) (tables []*report.Table, err error) {
	dsn := r.DSN
	if p.delay > 0 {
		var between *proxy.Proxy
		if between, dsn, err = through(r.DSN, proxy.Options{Delay: p.delay}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, between.Close()) }()
	}
	opened := map[string]*ready{}
	for _, c := range r.Candidates {
		o, err := prepare(ctx, c, dsn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
		defer o.pool.Close()
		opened[c.Name()] = o
	}
	for _, j := range p.jobs {
		t := &report.Table{Title: j.title + ", " + p.name(), Baseline: baseline}
		for _, n := range p.clients {
			t.Columns = append(t.Columns, report.Column{Name: clientsColumn(n), Unit: report.PerSecond, Better: report.Higher})
		}
		tables = append(tables, t)
	}
	for round := range r.Rounds {
		if err := script(ctx, r, []string{"TRUNCATE events", "VACUUM accounts"}); err != nil {
			return nil, err
		}
		for i, j := range p.jobs {
			for _, clients := range p.clients {
				for _, c := range r.order(fmt.Sprint(w.Name(), j.name, clients), round, r.Candidates) {
					o := opened[c.Name()]
					if j.name == "prepared" && o.statement == nil {
						tables[i].Missing(report.Row{Candidate: c.Name()}, "", o.reason)
						continue
					}
					rate, err := repeat(ctx, r, j, o, clients, round)
					if err != nil {
						return nil, fmt.Errorf("%s, %s: %w", c.Name(), j.title, err)
					}
					tables[i].Add(report.Row{Candidate: c.Name()}, clientsColumn(clients), rate)
				}
			}
			r.logf("postgres, %s, round %d: %s measured", p.name(), round+1, j.title)
		}
	}
	for _, t := range tables {
		t.Sort(nil, r.names())
	}
	return tables, nil
}

// prepare opens a candidate with all its connections.
func prepare(ctx context.Context, c candidate.Candidate, dsn string) (*ready, error) {
	pool, err := c.Open(ctx, dsn, candidate.Settings{Connections: postgresConnections})
	if err != nil {
		return nil, err
	}
	o := &ready{pool: pool}
	if err := fill(ctx, pool, postgresConnections); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	reason := candidate.Unable("")
	o.statement, err = pool.Prepare(ctx, pointQuery)
	if errors.As(err, &reason) {
		o.statement, o.reason = nil, string(reason)
		return o, nil
	}
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return o, nil
}

// repeat has a number of goroutines do a job, and returns how often it was done per second.
func repeat(ctx context.Context, r *Run, j job, o *ready, clients, round int) (perSecond float64, err error) {
	warm, length := pick(r, 50*time.Millisecond, 30*time.Millisecond), pick(r, 120*time.Millisecond, 60*time.Millisecond)
	var (
		done    atomic.Int64
		stop    atomic.Bool
		workers sync.WaitGroup
		mu      sync.Mutex // guards failure
		failure error
	)
	for i := range clients {
		ids := rand.New(rand.NewPCG(r.Seed, uint64(round)<<32+uint64(i)))
		workers.Go(func() {
			for !stop.Load() {
				if err := j.run(ctx, o.pool, o.statement, 1+ids.IntN(accounts)); err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					return
				}
				done.Add(1)
			}
		})
	}
	err = sleep(ctx, warm)
	before, began := done.Load(), time.Now()
	if err == nil {
		err = sleep(ctx, length)
	}
	perSecond = float64(done.Load()-before) / time.Since(began).Seconds()
	stop.Store(true)
	workers.Wait()
	return perSecond, errors.Join(err, failure)
}

func (postgres) picture(r *Run, p part, t *report.Table) Picture {
	bars := &chart.Bars{
		Title:       fmt.Sprintf("Queries by primary key, %s, per second", p.name()),
		Description: "Throughput of each candidate on 10 connections, for several numbers of goroutines.",
		Name:        report.PerSecond.Format,
	}
	for _, n := range p.clients {
		group := chart.Group{Name: fmt.Sprintf("%d goroutines", n)}
		if n == 1 {
			group.Name = "1 goroutine"
		}
		if n == 512 {
			continue // like 64, and the picture is long enough
		}
		for _, c := range r.Candidates {
			values := t.Values(report.Row{Candidate: c.Name()}, clientsColumn(n))
			bar := chart.Bar{Name: c.Name(), Tone: tone(c), Value: stats.Median(values)}
			bar.Lowest, bar.Top = stats.Range(values)
			group.Bars = append(group.Bars, bar)
		}
		bars.Groups = append(bars.Groups, group)
	}
	file := "bench-postgres.svg"
	if p.delay > 0 {
		file = "bench-postgres-delay.svg"
	}
	return Picture{File: file, Alt: bars.Title, Chart: bars}
}

func (postgres) cause(t *report.Table, loss report.Loss) string {
	switch {
	case strings.HasPrefix(loss.To, "pgx"):
		return pgxIsLighter
	case loss.Column == clientsColumn(1) || loss.Column == clientsColumn(8):
		return "" // nobody waits
	case loss.Row.Candidate == "lifeguard (no cache)" && strings.HasPrefix(t.Title, preparedTitle):
		return "Without the cache a statement of `db.Prepare` has to be prepared again whenever its connection has " +
			"changed hands, which is at every return while somebody waits."
	default:
		return "While somebody waits, every connection that comes back changes hands in order, which costs a few " +
			"microseconds of processor time: the handle closes one connection of its own and opens another, and the " +
			"goroutine whose turn it is has to be woken. Where the query itself takes little more than that, and the processors are busy, it shows."
	}
}
