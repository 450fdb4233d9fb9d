package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	short string // in the summary
	// operations is how many calls of lifeguard's one job is, and rows how many rows they read.
	operations, rows int
	run              func(ctx context.Context, pool candidate.Pool, st candidate.Statement, id int) error
}

var jobs = []job{
	{"select1", "SELECT 1", "SELECT 1", 1, 1, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, _ int) error {
		_, err := pool.Int(ctx, "SELECT 1")
		return err
	}},
	{"point", "Query by primary key, one argument", "query by primary key", 1, 1, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		_, err := pool.Int(ctx, pointQuery, id)
		return err
	}},
	{"endless", "The same query with a context that cannot end", "query without a context", 1, 1, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		_, err := pool.Int(context.WithoutCancel(ctx), pointQuery, id)
		return err
	}},
	{"insert", "INSERT of two values", "INSERT", 1, 0, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
		return pool.Exec(ctx, "INSERT INTO events (account, note) VALUES ($1, $2)", id, "an event of the comparison")
	}},
	{"transaction", "Transaction of three statements", "transaction", 5, 1, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, id int) error {
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
	{"rows", "Query of 1,000 rows", "1,000 rows", 1, 1000, func(ctx context.Context, pool candidate.Pool, _ candidate.Statement, _ int) error {
		n, err := pool.Pairs(ctx, "SELECT id, name FROM accounts ORDER BY id LIMIT 1000")
		if err == nil && n != 1000 {
			err = fmt.Errorf("%d rows, want 1000", n)
		}
		return err
	}},
	{"prepared", preparedTitle, "prepared query", 1, 1, func(ctx context.Context, _ candidate.Pool, st candidate.Statement, id int) error {
		_, err := st.Int(ctx, id)
		return err
	}},
}

// behindNetwork is the jobs for which a network makes a difference of its own.
func behindNetwork() []job {
	return slices.DeleteFunc(slices.Clone(jobs), func(j job) bool { return j.name == "endless" })
}

func (postgres) Name() string { return "postgres" }

// part is what is measured behind one network.
type part struct {
	delay   time.Duration
	jobs    []job
	clients []int
}

func (w postgres) Run(ctx context.Context, r *Run) (*Section, error) {
	clients := pick(r, []int{1, 8, 64, 512}, []int{1, 64}, []int{8})
	parts := []part{
		{delay: 0, jobs: jobs, clients: clients},
		{delay: time.Millisecond, jobs: pick(r, behindNetwork(), jobs[1:2], jobs[1:2]), clients: clients},
	}
	if err := script(ctx, r, postgresTables); err != nil {
		return nil, err
	}
	s := &Section{
		Title: "PostgreSQL: what services do all day",
		Text: fmt.Sprintf("Operations per second of %d to %d goroutines on %d connections, without pause, over TCP on "+
			"the loopback interface; then with %s of network in each direction, added by a proxy in the same program. "+
			"Identifiers are drawn from %s rows. All connections are open before, and each measurement comes after a "+
			"warm-up and a collection of garbage. The server runs on the same processors as the clients and does not "+
			"wait for a disk, so that without delay the figures show what processor time a candidate takes, and with "+
			"it how often a query goes over the network. With few goroutines and no delay they depend on which "+
			"processor each side of a connection runs on; the figure of a round is therefore the median of %d turns "+
			"there.",
			clients[0], clients[len(clients)-1], postgresConnections, report.Duration(time.Millisecond),
			report.Count.Format(accounts), pick(r, fewTurns, fewTurns, 1)),
		Cause: func(t *report.Table, loss report.Loss) (text, note string) { return w.cause(r, t, loss) },
	}
	for _, p := range parts {
		tables, err := w.runPart(ctx, r, p)
		if err != nil {
			return nil, err
		}
		s.Headlines = append(s.Headlines, w.headlines(p, tables)...)
		s.Tables = append(s.Tables, tables...)
		for i, j := range p.jobs {
			if j.name == "point" {
				s.Pictures = append(s.Pictures, w.picture(r, p, tables[i]))
			}
		}
	}
	return s, nil
}

// headlines are the figures for many goroutines.
func (postgres) headlines(p part, tables []*report.Table) (list []Headline) {
	many := p.clients[min(len(p.clients)-1, len(p.clients)/2)]
	for i, j := range p.jobs {
		h := Headline{
			Text: fmt.Sprintf("%s, %s, %s", j.short, goroutines(many), p.name()), Table: tables[i],
			Row: report.Row{Candidate: "lifeguard"}, Column: goroutines(many),
		}
		switch j.name {
		case "point":
			h.Front = true
		case "select1":
			h.Front = p.delay == 0
		case "prepared":
			h.Peer = "pgx stdlib"
		case "endless", "insert", "rows":
			continue // the summary is to be short
		}
		if p.delay == 0 || j.name == "point" {
			list = append(list, h)
		}
	}
	return list
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

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return fmt.Sprintf("%d goroutines", n)
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
			t.Columns = append(t.Columns, report.Column{Name: goroutines(n), Unit: report.PerSecond, Better: report.Higher})
		}
		tables = append(tables, t)
	}
	// What a connection does for the first time, such as preparing a statement, is in no round.
	for _, j := range p.jobs {
		for _, c := range r.Candidates {
			if o := opened[c.Name()]; j.name != "prepared" || o.statement != nil {
				if _, err := p.repeat(ctx, r, j, o, min(64, p.clients[len(p.clients)-1]), -1); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", c.Name(), j.title, err)
				}
			}
		}
	}
	for round := range r.Rounds {
		if err := script(ctx, r, []string{"TRUNCATE events", "VACUUM accounts"}); err != nil {
			return nil, err
		}
		for i, j := range p.jobs {
			for _, clients := range p.clients {
				rates := map[string][]float64{}
				turns := p.turns(r, clients)
				for turn := range turns {
					for _, c := range r.order(fmt.Sprint(w.Name(), j.name, clients), round*turns+turn, r.Candidates) {
						o := opened[c.Name()]
						if j.name == "prepared" && o.statement == nil {
							tables[i].Missing(report.Row{Candidate: c.Name()}, "", o.reason)
							continue
						}
						rate, err := p.repeat(ctx, r, j, o, clients, round)
						if err != nil {
							return nil, fmt.Errorf("%s, %s: %w", c.Name(), j.title, err)
						}
						rates[c.Name()] = append(rates[c.Name()], rate)
					}
				}
				for name, values := range rates {
					tables[i].Add(report.Row{Candidate: name}, goroutines(clients), stats.Median(values))
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

// fewTurns is how often a candidate has its turn in a round with few goroutines and no delay.
const fewTurns = 3

// turns is in how many pieces, with the other candidates between them, a candidate is measured in a round.
func (p part) turns(r *Run, clients int) int {
	if p.delay == 0 && clients < postgresConnections {
		return pick(r, fewTurns, fewTurns, 1)
	}
	return 1
}

// lengths are how long a turn is warmed up and measured. Behind a delay, and for a single goroutine, little has to get
// warm.
func (p part) lengths(r *Run, clients int) (warm, length time.Duration) {
	switch {
	case r.Extent == Smoke:
		return 5 * time.Millisecond, 15 * time.Millisecond
	case p.turns(r, clients) > 1:
		return 10 * time.Millisecond, pick(r, 40*time.Millisecond, 25*time.Millisecond, 0)
	case p.delay > 0:
		return 25 * time.Millisecond, pick(r, 110*time.Millisecond, 80*time.Millisecond, 0)
	default:
		return 40 * time.Millisecond, pick(r, 110*time.Millisecond, 60*time.Millisecond, 0)
	}
}

// repeat has a number of goroutines do a job, and returns how often it was done per second.
func (p part) repeat(ctx context.Context, r *Run, j job, o *ready, clients, round int) (perSecond float64, err error) {
	settle()
	warm, length := p.lengths(r, clients)
	var (
		began = time.Now()
		// What is counted lies between two ends of a job, not between two moments of the clock: of a transaction that
		// takes 20 ms a few parts more or less would be in the time.
		done, last atomic.Int64 // jobs done, and when the last one was, in nanoseconds
		stop       atomic.Bool
		workers    sync.WaitGroup
		mu         sync.Mutex // guards failure
		failure    error
	)
	for i := range clients {
		ids := rand.New(rand.NewPCG(r.Seed, uint64(round)<<32+uint64(i)))
		workers.Go(func() {
			for !stop.Load() {
				if err := j.run(ctx, o.pool, o.statement, 1+ids.IntN(accounts)); err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					stop.Store(true)
					return
				}
				done.Add(1)
				last.Store(int64(time.Since(began)))
			}
		})
	}
	const (
		fewest  = 5 // jobs
		longest = 2 * time.Second
	)
	err = sleep(ctx, warm)
	for err == nil && done.Load() == 0 && !stop.Load() && time.Since(began) < longest {
		err = sleep(ctx, time.Millisecond)
	}
	before, from := done.Load(), last.Load()
	if err == nil {
		err = sleep(ctx, length)
	}
	for err == nil && done.Load() < before+fewest && !stop.Load() && time.Since(began) < longest {
		err = sleep(ctx, time.Millisecond)
	}
	n, to := done.Load()-before, last.Load()
	stop.Store(true)
	workers.Wait()
	if err = errors.Join(err, failure); err != nil {
		return 0, err
	}
	if n == 0 || to <= from {
		return 0, fmt.Errorf("%d jobs in %v", n, time.Since(began))
	}
	return float64(n) / time.Duration(to-from).Seconds(), nil
}

func (postgres) picture(r *Run, p part, t *report.Table) Picture {
	bars := &chart.Bars{
		Title:       fmt.Sprintf("Queries by primary key, %s, per second", p.name()),
		Description: "Throughput of each candidate on 10 connections, for several numbers of goroutines.",
		Note:        "longer is better; the whiskers are the lowest and the highest round",
		Name:        report.PerSecond.Format,
	}
	for _, n := range p.clients {
		group := chart.Group{Name: goroutines(n)}
		if n == 512 {
			continue // like 64, and the picture is long enough
		}
		for _, c := range r.Candidates {
			values := t.Values(report.Row{Candidate: c.Name()}, goroutines(n))
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

// again is by what factor a query that is prepared anew each time is slower, at the least: it takes a second round trip.
const again = 1.7

func (w postgres) cause(r *Run, t *report.Table, loss report.Loss) (text, note string) {
	clients := 0
	_, _ = fmt.Sscanf(loss.Column, "%d", &clients)
	delayed := !strings.HasSuffix(t.Title, part{}.name())
	switch {
	case loss.To == "pgxpool" && clients == 1 && !delayed && startsGoroutine(t) && !behindBaseline(t, loss):
		return startsAndWakes, ""
	case IsPGX(loss.To) && !behindBaseline(t, loss):
		if delayed {
			return "pgx sends less, or in fewer pieces, for the same: it prepares queries without arguments as well, and its " +
				"processor time is less. With " + loss.To + " plain lib/pq is behind too.", ""
		}
		return pgxIsLighter, ""
	case loss.Row.Candidate == "lifeguard (no cache)" && strings.HasPrefix(t.Title, preparedTitle) && loss.Factor > again:
		return "With `statement_cache_size=0` nothing is named on the server, so that each execution of a statement of " +
			"`db.Prepare` takes lib/pq's two round trips, as if it had not been prepared.", ""
	case strings.HasPrefix(t.Title, preparedTitle) && loss.Row.Candidate == "lifeguard" && clients > fewIdle:
		return "Whoever waits for longer than 10 ms gets a new connection of the handle's, and so does who finds none of the two " +
			"that it keeps idle with `sql.Open`: `database/sql` prepares a statement of `db.Prepare` on it again. lifeguard " +
			"answers that from its cache, without asking the server, but not for nothing.", ""
	case clients > postgresConnections:
		return "While somebody waits, every connection that comes back changes hands in order, which costs processor time: the " +
			"goroutine whose turn it is has to be woken, and if it has waited for longer than 10 ms, the handle has closed a " +
			"connection of its own and opens another. Plain `database/sql` hands what it has to anyone. The less the query " +
			"itself takes of the processors, the more it shows.", ""
	default:
		return w.nobodyWaits(r, t, loss, clients)
	}
}

// startsGoroutine says whether database/sql starts a goroutine in the job of a table.
func startsGoroutine(t *report.Table) bool {
	return slices.ContainsFunc(jobs, func(j job) bool {
		return strings.HasPrefix(t.Title, j.title+",") && j.rows > 0 && j.rows < manyRows && j.name != "endless"
	})
}

// manyRows take so long to read that a goroutine more or less does not show.
const manyRows = 100

const startsAndWakes = "`database/sql` starts a goroutine for each transaction, and for each query, to wait for the end of " +
	"its context. For that Go wakes a second thread, and from then on client and server wake each other across two " +
	"processors, which takes longer than the query. pgxpool has no such goroutine; nor have, on `database/sql`, an INSERT " +
	"and a query whose context cannot end: see there."

// fewIdle is how many idle connections a handle of sql.Open keeps.
const fewIdle = 2

// nobodyWaits compares a loss with what lifeguard itself takes.
func (postgres) nobodyWaits(r *Run, t *report.Table, loss report.Loss, clients int) (text, note string) {
	each := func(candidate string) float64 {
		return 1 / stats.Median(t.Values(report.Row{Variant: loss.Row.Variant, Candidate: candidate}, loss.Column))
	}
	more, own := each(loss.Row.Candidate)-each(loss.To), 0.0
	for _, j := range jobs {
		if strings.HasPrefix(t.Title, j.title+",") {
			own = float64(j.operations)*r.ownCost + float64(j.rows)*r.ownRowCost
		}
	}
	if more > 0 {
		note = report.Seconds.Format(more) + " more"
		if own > 0 {
			note += ", lifeguard's own part about " + report.Seconds.Format(own)
		}
	}
	switch {
	case clients > fewIdle:
		return "Nobody waits, but `sql.Open` lets the handle keep two connections idle, and the others go back to the pool " +
			"at each return and out of it again at the next checkout.", note
	case own > 0 && more > 3*own:
		return "lifeguard's own part, as Overhead has it, is too small for the difference. With a single goroutine, client and " +
			"server wait for each other in turns, and the rate is that of waking up: the spread in the table is that of " +
			"two connections, not of two libraries.", note
	default:
		return "Nobody waits, and lifeguard's account of a query is a visible part of a query that takes so little.", note
	}
}
