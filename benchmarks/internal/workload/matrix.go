package workload

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// heldFor is how long a connection is held where it is not given back at once: a query of that time.
const heldFor = 100 * time.Microsecond

func (w matrix) Run(ctx context.Context, r *Run) (*Section, error) {
	sizes := pick(r, []int{8, 64, 512}, []int{8, 64}, []int{8})
	crowds := pick(r, []int{8, 32, 128, 512, 2048, 8192}, []int{8, 512, 8192}, []int{8, 128})
	heldCrowds := pick(r, []int{8, 512}, []int{512}, []int{128})

	pools, others := r.pools()
	names := candidateNames(pools)
	// The pool under pgxpool stands for it here.
	if i := slices.Index(names, "pgxpool"); i >= 0 {
		names[i] = puddleName
	}
	nothing, held := w.table("Given back at once", crowds), w.table(heldTitle, heldCrowds)
	leaveOutOthers(nothing, others)
	var variants []string
	for _, size := range sizes {
		variants = append(variants, strconv.Itoa(size)+" connections")
		opened := map[string]acquirer{}
		for _, name := range names {
			a, err := openAcquirer(ctx, name, size)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			defer a.close()
			opened[name] = a
		}
		if err := w.fill(ctx, r, nothing, opened, size, crowds, 0); err != nil {
			return nil, err
		}
		if size == sizes[0] {
			if err := w.fill(ctx, r, held, opened, size, heldCrowds, heldFor); err != nil {
				return nil, err
			}
		}
		r.logf("matrix, pool of %d connections measured", size)
	}
	nothing.Sort(variants, names)
	held.Sort(variants, names)
	return &Section{
		Title: "Acquire and release, by size of pool and crowd",
		Text: fmt.Sprintf("Goroutines take a connection of a driver in memory, let the others run once, and give it back; in the "+
			"second table they sleep for %s in between, as if for a query. The figure is the time from one such round to the "+
			"next, whoever does it, so that less is more throughput. With no more goroutines than connections nobody waits. "+
			"puddle is the pool under pgxpool.", report.Duration(heldFor)),
		Tables: []*report.Table{nothing, held},
		Cause:  plainCause(w.cause),
		Headlines: []Headline{
			w.headline(nothing, variants, crowds[len(crowds)/2], ""),
			w.headline(held, variants, heldCrowds[len(heldCrowds)-1], ", held for "+report.Duration(heldFor)),
		},
	}, nil
}

var heldTitle = "Held for " + report.Duration(heldFor)

func (matrix) table(title string, crowds []int) *report.Table {
	t := &report.Table{Title: title, Baseline: baseline, Variants: "pool"}
	for _, n := range crowds {
		t.Columns = append(t.Columns, report.Column{Name: crowdColumn(n), Unit: report.Seconds, Better: report.Lower})
	}
	return t
}

// fill measures the rows of a size of pool.
func (w matrix) fill(ctx context.Context, r *Run, t *report.Table, opened map[string]acquirer, size int, crowds []int, held time.Duration) error {
	names := slices.Sorted(maps.Keys(opened))
	for round := range r.Rounds {
		for _, crowd := range crowds {
			for _, i := range r.rng(fmt.Sprint("matrix", size, crowd, held), round).Perm(len(names)) {
				perOp, err := w.measure(ctx, r, opened[names[i]], crowd, held)
				if err != nil {
					return fmt.Errorf("%s: %w", names[i], err)
				}
				t.Add(report.Row{Variant: strconv.Itoa(size) + " connections", Candidate: names[i]}, crowdColumn(crowd), perOp)
			}
		}
	}
	return nil
}

// headline is a figure of the smallest pool.
func (matrix) headline(t *report.Table, variants []string, crowd int, more string) Headline {
	return Headline{
		Text: fmt.Sprintf("acquire and release, %s on %s%s", crowdColumn(crowd), variants[0], more), Table: t,
		Row: report.Row{Variant: variants[0], Candidate: "lifeguard"}, Column: crowdColumn(crowd), Peer: puddleName,
	}
}

func crowdColumn(n int) string { return fmt.Sprintf("%s goroutines", report.Count.Format(float64(n))) }

func (matrix) measure(ctx context.Context, r *Run, a acquirer, crowd int, held time.Duration) (perOp float64, err error) {
	warm := pick(r, 40*time.Millisecond, 30*time.Millisecond, 5*time.Millisecond)
	length := pick(r, 100*time.Millisecond, 60*time.Millisecond, 10*time.Millisecond)
	settle()
	var (
		done    = make([]atomic.Int64, crowd*spacing)
		stop    atomic.Bool
		workers sync.WaitGroup
		begun   sync.WaitGroup
		mu      sync.Mutex // guards failure
		failure error
	)
	begun.Add(crowd)
	for i := range crowd {
		workers.Go(func() {
			begun.Done()
			for !stop.Load() {
				release, err := a.acquire(ctx)
				if err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					return
				}
				if held > 0 {
					time.Sleep(held)
				} else {
					// Otherwise a goroutine would run until it is preempted, and hardly ever meet another one that has a
					// connection: two processors would see two in use.
					runtime.Gosched()
				}
				release()
				done[i*spacing].Add(1)
			}
		})
	}
	count := func() (n int64) {
		for i := range crowd {
			n += done[i*spacing].Load()
		}
		return n
	}
	const (
		fewest  = 1000
		longest = time.Second
	)
	begun.Wait() // a crowd of thousands takes a while to come together
	asked := time.Now()
	err = sleep(ctx, warm)
	for err == nil && count() < fewest && time.Since(asked) < longest {
		err = sleep(ctx, time.Millisecond)
	}
	before, began := count(), time.Now()
	if err == nil {
		err = sleep(ctx, length)
	}
	for err == nil && count() < before+fewest && time.Since(began) < longest {
		err = sleep(ctx, time.Millisecond)
	}
	n, took := count()-before, time.Since(began)
	stop.Store(true)
	workers.Wait()
	if err = errors.Join(err, failure); err != nil {
		return 0, err
	}
	if n == 0 {
		return math.NaN(), nil
	}
	return took.Seconds() / float64(n), nil
}

// spacing keeps the counters of two goroutines out of one cache line.
const spacing = 8

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

func (matrix) cause(t *report.Table, loss report.Loss) string {
	var size, crowd int
	_, _ = fmt.Sscanf(loss.Row.Variant, "%d", &size)
	_, _ = fmt.Sscanf(strings.ReplaceAll(loss.Column, ",", ""), "%d", &crowd)
	switch {
	case crowd <= size && loss.To == puddleName:
		return "With a connection for everybody, puddle takes one lock and is done; lifeguard's checkout passes " +
			"`database/sql`'s list of connections first, and then makes its account of who has which."
	case crowd <= size:
		return "With a connection for everybody, a checkout costs what plain `database/sql` takes and lifeguard's account of " +
			"who has which, and there is no other work to see."
	case loss.To == puddleName:
		return "When somebody waits, lifeguard's handle of `database/sql` closes a lease and opens another at each change of hands, " +
			"where puddle passes on what it has."
	default:
		return "When somebody waits, the one whose turn it is has to be woken, and the handle closes a lease and opens another at each " +
			"change of hands; plain `database/sql` passes on what it has, to anyone."
	}
}
