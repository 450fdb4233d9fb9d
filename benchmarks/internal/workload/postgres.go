package workload

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
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

// crowdedJobs is the prepared query, for a crowd on few connections: each connection that a goroutine meets for the first
// time has to be prepared on.
func crowdedJobs() []job {
	return slices.DeleteFunc(slices.Clone(jobs), func(j job) bool { return j.name != "prepared" })
}

// part is what is measured behind one network, on one number of connections.
type part struct {
	delay       time.Duration
	connections int
	jobs        []job
	clients     []int
}

func (w postgres) Run(ctx context.Context, r *Run) (*Section, error) {
	clients := pick(r, []int{1, 8, 64, 512}, []int{1, 8, 64}, []int{8})
	parts := []part{
		{connections: postgresConnections, jobs: jobs, clients: clients},
		{connections: 4, jobs: crowdedJobs(), clients: pick(r, []int{32}, []int{32}, []int{8})},
		{connections: postgresConnections, delay: time.Millisecond, jobs: pick(r, behindNetwork(), jobs[1:2], jobs[1:2]), clients: clients},
	}
	if err := script(ctx, r, postgresTables); err != nil {
		return nil, err
	}
	s := &Section{
		Title: "PostgreSQL: what services do all day",
		Text: fmt.Sprintf("Operations per second of %d to %d goroutines on %d connections, without pause, over TCP on "+
			"the loopback interface; the prepared query also for a crowd on 4; then with %s of network in each direction, added by a "+
			"proxy in the same program. "+
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

// headlines are the figures for many goroutines, and of the point query also those for a few.
func (postgres) headlines(p part, tables []*report.Table) (list []Headline) {
	many := p.clients[len(p.clients)-1]
	if len(p.clients) > 2 {
		many = 64
	}
	add := func(j job, t *report.Table, clients int, h Headline) {
		h.Text, h.Table = fmt.Sprintf("%s, %s, %s", j.short, goroutines(clients), p.name()), t
		h.Row, h.Column = report.Row{Candidate: "lifeguard"}, goroutines(clients)
		list = append(list, h)
	}
	for i, j := range p.jobs {
		switch j.name {
		case "point":
			if few := 8; few != many && slices.Contains(p.clients, few) {
				add(j, tables[i], few, Headline{})
			}
			add(j, tables[i], many, Headline{Front: p.delay > 0})
		case "select1", "transaction":
			if p.delay == 0 {
				add(j, tables[i], many, Headline{Front: j.name == "select1"})
			}
		case "prepared":
			if p.delay == 0 {
				add(j, tables[i], many, Headline{Peer: "pgx stdlib"})
			}
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

// eachWay is in the name of a part with a delay.
const eachWay = " each way"

func (p part) name() string {
	name := "no delay"
	if p.delay > 0 {
		name = report.Duration(p.delay) + eachWay
	}
	if p.connections != postgresConnections {
		name += fmt.Sprintf(", %d connections", p.connections)
	}
	return name
}

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return fmt.Sprintf("%d goroutines", n)
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
