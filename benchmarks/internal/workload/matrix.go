package workload

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/puddle/v2"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// matrix is taking a connection and giving it back, and nothing else, for pools and crowds of all sizes.
type matrix struct{}

func (matrix) Name() string { return "matrix" }

// acquirer is a pool of which nothing but taking and giving back is used.
type acquirer interface {
	acquire(ctx context.Context) (release func(), err error)
	close()
}

// puddleName is the pool under pgxpool, which works without PostgreSQL.
const puddleName = "puddle"

func (w matrix) Run(ctx context.Context, r *Run) (*Section, error) {
	sizes := pick(r, []int{8, 64, 512}, []int{8, 64})
	crowds := pick(r, []int{8, 32, 128, 512, 2048, 8192}, []int{8, 512, 8192})

	pools, others := r.pools()
	names := candidateNames(pools)
	// The pool under pgxpool stands for it here.
	if i := slices.Index(names, "pgxpool"); i >= 0 {
		names[i] = puddleName
	}
	table := &report.Table{Baseline: baseline, Variants: "pool"}
	leaveOutOthers(table, others)
	for _, n := range crowds {
		table.Columns = append(table.Columns, report.Column{Name: crowdColumn(n), Unit: report.Seconds, Better: report.Lower})
	}
	var variants []string
	for _, size := range sizes {
		variant := strconv.Itoa(size) + " connections"
		variants = append(variants, variant)
		opened := map[string]acquirer{}
		for _, name := range names {
			a, err := openAcquirer(ctx, name, size)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			defer a.close()
			opened[name] = a
		}
		for round := range r.Rounds {
			for _, crowd := range crowds {
				for _, i := range r.rng(fmt.Sprint("matrix", size, crowd), round).Perm(len(names)) {
					perOp, err := w.measure(ctx, r, opened[names[i]], crowd)
					if err != nil {
						return nil, fmt.Errorf("%s: %w", names[i], err)
					}
					table.Add(report.Row{Variant: variant, Candidate: names[i]}, crowdColumn(crowd), perOp)
				}
			}
		}
		r.logf("matrix, pool of %s measured", variant)
	}
	table.Sort(variants, names)
	return &Section{
		Title: "Acquire and release, by size of pool and crowd",
		Text: "Goroutines take a connection of a driver in memory and give it back at once. The figure is the time " +
			"from one such round to the next, whoever does it, so that less is more throughput. puddle is the pool " +
			"under pgxpool.",
		Tables: []*report.Table{table},
		Cause:  w.cause,
	}, nil
}

func crowdColumn(n int) string { return fmt.Sprintf("%s goroutines", report.Count.Format(float64(n))) }

func (matrix) measure(ctx context.Context, r *Run, a acquirer, crowd int) (float64, error) {
	// Enough that the crowd meets: those who come first must not be done before the last one is there.
	perClient := max(pick(r, 200_000, 60_000)/crowd, 4)
	failures := make([]error, crowd)
	var workers sync.WaitGroup
	start := make(chan struct{})
	for i := range crowd {
		workers.Go(func() {
			<-start
			for range perClient {
				release, err := a.acquire(ctx)
				if err != nil {
					failures[i] = err
					return
				}
				release()
			}
		})
	}
	began := time.Now()
	close(start)
	workers.Wait()
	took := time.Since(began)
	for _, err := range failures {
		if err != nil {
			return 0, err
		}
	}
	return took.Seconds() / float64(crowd*perClient), nil
}

func openAcquirer(ctx context.Context, name string, size int) (acquirer, error) {
	if name == puddleName {
		pool, err := puddle.NewPool(&puddle.Config[struct{}]{
			Constructor: func(context.Context) (struct{}, error) { return struct{}{}, nil },
			Destructor:  func(struct{}) {},
			MaxSize:     int32(size),
		})
		return puddlePool{pool}, err
	}
	for _, c := range candidate.All() {
		if c.Name() == name {
			db, err := c.Over(fakedriver.Fast(), candidate.Settings{Connections: size})
			return handle{db}, err
		}
	}
	return nil, fmt.Errorf("no candidate %q", name)
}

type handle struct{ db *sql.DB }

func (h handle) acquire(ctx context.Context) (func(), error) {
	c, err := h.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return func() { _ = c.Close() }, nil // giving back a healthy connection does not fail
}

func (h handle) close() { _ = h.db.Close() }

type puddlePool struct{ pool *puddle.Pool[struct{}] }

func (p puddlePool) acquire(ctx context.Context) (func(), error) {
	res, err := p.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return res.Release, nil
}

func (p puddlePool) close() { p.pool.Close() }

func (matrix) cause(_ *report.Table, loss report.Loss) string {
	if loss.To == puddleName {
		return "puddle is one pool; lifeguard's is behind a handle of `database/sql`, whose own list of connections a " +
			"checkout passes first, and when somebody waits, each change of hands makes a new connection of that handle's."
	}
	return "A checkout costs what plain `database/sql` takes and about a tenth of a microsecond of lifeguard's, and " +
		"when somebody waits, a new connection of the handle's for each change of hands. Without any work between taking " +
		"and giving back there is nothing else to see."
}
