// Package workload has what the candidates are put through, each workload in a file of its own.
package workload

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/proxy"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
)

// A Workload is something that a service does with its database.
type Workload interface {
	// Name is its name on the command line.
	Name() string
	// Run measures every candidate of the run, in every round.
	Run(ctx context.Context, r *Run) (*Section, error)
}

// All lists the workloads in the order of the page.
func All() []Workload {
	return []Workload{
		overhead{},
		postgres{},
		contention{},
		overload{},
		spike{},
		slowDials{},
		churn{},
		matrix{},
		memory{},
	}
}

// A Run is what all workloads of one start of the program have in common.
type Run struct {
	Candidates []candidate.Candidate
	DSN        string // of an empty database, as a URL
	Rounds     int
	Extent     Extent
	Seed       uint64
	Log        io.Writer // progress
	Began      time.Time // what progress counts from

	// ownCost and ownRowCost are what lifeguard adds to a query in memory and to a row, in seconds, once overhead has
	// measured it; 0 before.
	ownCost, ownRowCost float64
}

// Extent is how much is measured, and for how long.
type Extent int

// The extents. Smoke shows that everything works, and its figures mean nothing.
const (
	Full Extent = iota
	Quick
	Smoke
)

// A Section is what a workload contributes to the page.
type Section struct {
	Title    string
	Text     string // what was done, in Markdown
	Tables   []*report.Table
	Pictures []Picture
	// Cause says why lifeguard is behind another candidate somewhere, going by the figures; "" if they do not tell. A note
	// is about this figure alone.
	Cause func(table *report.Table, loss report.Loss) (text, note string)
	// Headlines are the figures that stand for the section in the summary of the page.
	Headlines []Headline
}

// plainCause is a cause without notes.
func plainCause(cause func(*report.Table, report.Loss) string) func(*report.Table, report.Loss) (text, note string) {
	return func(t *report.Table, loss report.Loss) (text, note string) { return cause(t, loss), "" }
}

// A Headline is one figure of lifeguard's, beside that of the baseline and of one other candidate.
type Headline struct {
	Text   string // what it is a figure of
	Table  *report.Table
	Row    report.Row
	Column string
	Peer   string // the other candidate: "pgxpool" if it is ""
	Front  bool   // also on the front page
}

// A Picture is drawn to a file of its own.
type Picture struct {
	File, Alt string
	Chart     interface{ WriteSVG(io.Writer) error }
}

// baseline is the candidate that ratios refer to.
var baseline = candidate.All()[0].Name()

// pgxIsLighter is a cause that several workloads show.
const pgxIsLighter = "pgx needs less processor time for a query than lib/pq does, whose protocol code lifeguard uses, " +
	"and is ahead of plain lib/pq too: it reads the binary format, it prepares queries without arguments as well, and " +
	"pgxpool leaves out `database/sql`."

// WrappersOnly is the cause where a library that passes calls on to what the baseline does is ahead of lifeguard, and the
// baseline is not.
const WrappersOnly = "Only libraries are ahead that do what plain `database/sql` does, and something on top; plain " +
	"`database/sql` itself is not. Such a difference is the machine's: see the spread of these figures."

// IsPGX tells whether a candidate is pgx's: its driver, or one of its pools.
func IsPGX(candidate string) bool {
	return strings.HasPrefix(candidate, "pgx") || candidate == puddleName
}

// pick is the one for the extent of the run.
func pick[T any](r *Run, full, quick, smoke T) T {
	return [...]T{Full: full, Quick: quick, Smoke: smoke}[r.Extent]
}

// settle has the garbage of the candidate before collected, which this one is not to pay for.
func settle() { runtime.GC() }

// behindBaseline tells whether lifeguard's row is behind the baseline too, in the figure in which it is behind another
// candidate, and the other candidate is no further ahead than that.
func behindBaseline(t *report.Table, loss report.Loss) bool {
	verdict, factor := t.Compare(loss.Row, baseline, loss.Column)
	return verdict == report.Behind && factor >= loss.Factor*0.95
}

// rng gives the random numbers for a purpose: the same ones for every candidate, different ones in every round.
func (r *Run) rng(purpose string, round int) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", purpose, round)
	return rand.New(rand.NewPCG(r.Seed, h.Sum64()))
}

// order is the order of the candidates in a round: a different one in each, so that none always comes after the same
// other one.
func (r *Run) order(purpose string, round int, list []candidate.Candidate) []candidate.Candidate {
	shuffled := make([]candidate.Candidate, len(list))
	for i, j := range r.rng("order of "+purpose, round).Perm(len(list)) {
		shuffled[i] = list[j]
	}
	return shuffled
}

func (r *Run) logf(format string, args ...any) {
	fmt.Fprintf(r.Log, "%7s  "+format+"\n", append([]any{time.Since(r.Began).Round(time.Second)}, args...)...)
}

// names are those of the candidates, in the order of tables.
func (r *Run) names() []string {
	var names []string
	for _, c := range r.Candidates {
		names = append(names, c.Name())
	}
	return names
}

// few are the candidates of a workload that takes its time: in quick runs those that differ in their pool.
func (r *Run) few(tables ...*report.Table) []candidate.Candidate {
	if r.Extent == Full {
		return r.Candidates
	}
	pools, others := r.pools()
	for _, t := range tables {
		t.LeaveOut(others, "left out of quick runs")
	}
	return pools
}

// leaveOutOthers says why those whose pool is another's are not in a table about pools.
func leaveOutOthers(t *report.Table, others []string) {
	same := func(name string) bool { return strings.HasPrefix(name, "lifeguard") }
	own, foreign := []string{}, []string{}
	for _, name := range others {
		if same(name) {
			own = append(own, name)
		} else {
			foreign = append(foreign, name)
		}
	}
	t.LeaveOut(own, "the pool is lifeguard's")
	t.LeaveOut(foreign, "they leave the pool to `database/sql`, as "+baseline+" does")
}

// pools are the candidates that differ in their pool, and the names of the others.
func (r *Run) pools() (pools []candidate.Candidate, others []string) {
	for _, c := range r.Candidates {
		switch c.Name() {
		case baseline, "lifeguard", "pgxpool":
			pools = append(pools, c)
		default:
			others = append(others, c.Name())
		}
	}
	return pools, others
}

// withPool opens a candidate for the time of f.
func withPool(ctx context.Context, c candidate.Candidate, dsn string, s candidate.Settings, f func(candidate.Pool) error) error {
	pool, err := c.Open(ctx, dsn, s)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	err = errors.Join(f(pool), pool.Close())
	if err != nil {
		return fmt.Errorf("%s: %w", c.Name(), err)
	}
	return nil
}

// filling bounds fill, whose dials may take longer than the pool_timeout that is measured.
const filling = 30 * time.Second

// fill opens n connections by holding them all at once.
func fill(ctx context.Context, pool candidate.Pool, n int) (err error) {
	begin := time.Now()
	for range n {
		release, acquireErr := pool.Acquire(ctx)
		for errors.Is(acquireErr, lifeguard.ErrPoolTimeout) && time.Since(begin) < filling {
			release, acquireErr = pool.Acquire(ctx)
		}
		if acquireErr != nil {
			return acquireErr
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	return nil
}

// through starts a proxy in front of the server, and gives the DSN that leads through it.
func through(dsn string, o proxy.Options) (*proxy.Proxy, string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, "", err
	}
	p, err := proxy.Start(u.Host, o)
	if err != nil {
		return nil, "", err
	}
	u.Host = p.Addr()
	return p, u.String(), nil
}

// tone colours the candidates alike in all pictures.
func tone(c candidate.Candidate) chart.Tone {
	switch c.Name() {
	case "lifeguard":
		return chart.Subject
	case "lifeguard (no cache)", overPGX, traceAll:
		return chart.Sibling
	case baseline:
		return chart.Baseline
	case "pgxpool":
		return chart.Peer
	case "pgx stdlib":
		return chart.Relative
	default:
		return chart.Other
	}
}

// sleep waits for d, or until ctx is over.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
