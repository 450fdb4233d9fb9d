package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

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
		o, err := p.prepare(ctx, c, dsn)
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
					for _, c := range r.order(fmt.Sprint(w.Name(), p.name(), j.name, clients), round*turns+turn, r.Candidates) {
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
func (p part) prepare(ctx context.Context, c candidate.Candidate, dsn string) (*ready, error) {
	pool, err := c.Open(ctx, dsn, candidate.Settings{Connections: p.connections})
	if err != nil {
		return nil, err
	}
	o := &ready{pool: pool}
	if err := fill(ctx, pool, p.connections); err != nil {
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
	if p.delay == 0 && clients < p.connections {
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
