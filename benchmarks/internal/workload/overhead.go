package workload

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// overhead is what a library costs by itself: one goroutine on a driver in memory that does next to nothing.
type overhead struct{}

// traceAll is the name of lifeguard making a span for everything.
const traceAll = "lifeguard (trace=all)"

const everythingOn = "on, sampled, with metrics"

const (
	overheadConnections = 10
	overheadTimes       = "Time of an operation"
	overheadAllocations = "Allocations of an operation"
	overheadShown       = "QueryRow" // the operation that stands for all
	overheadRows        = "Query, 100 rows"
)

// An operation is run on a handle of database/sql. Its prepared query is there if it asks for one.
type operation struct {
	name     string
	prepared string
	run      func(ctx context.Context, db *sql.DB, st *sql.Stmt) error
}

var operations = []operation{
	{name: "Exec", run: func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = now()")
		return err
	}},
	{name: "Exec, 1 argument", run: func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
		_, err := db.ExecContext(ctx, "UPDATE customers SET seen = $1", 7)
		return err
	}},
	{name: overheadShown, run: func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
		var n int64
		return db.QueryRowContext(ctx, "SELECT 1").Scan(&n)
	}},
	{name: overheadRows, run: func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
		rows, err := db.QueryContext(ctx, "rows 100")
		if err != nil {
			return err
		}
		var n int64
		for rows.Next() {
			if err := rows.Scan(&n); err != nil {
				return errors.Join(err, rows.Close())
			}
		}
		return errors.Join(rows.Err(), rows.Close())
	}},
	{name: "Begin, Commit", run: func(ctx context.Context, db *sql.DB, _ *sql.Stmt) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		err = tx.Commit()
		// database/sql has a goroutine for each transaction, whose end is part of its cost.
		runtime.Gosched()
		return err
	}},
	{name: "prepared QueryRow", prepared: "SELECT 1", run: func(ctx context.Context, _ *sql.DB, st *sql.Stmt) error {
		var n int64
		return st.QueryRowContext(ctx).Scan(&n)
	}},
}

// tracing is whether an SDK is installed, and what its sampler says.
type tracing struct {
	name    string
	sampler sdktrace.Sampler // nil without an SDK
	metrics bool             // an SDK collects metrics besides, which only lifeguard is asked for
}

var tracings = []tracing{
	{name: "off"},
	{name: "on, not sampled", sampler: sdktrace.NeverSample()},
	{name: "on, sampled", sampler: sdktrace.AlwaysSample()},
	{name: everythingOn, sampler: sdktrace.AlwaysSample(), metrics: true},
}

func (overhead) Name() string { return "overhead" }

func (w overhead) Run(ctx context.Context, r *Run) (*Section, error) {
	// On one processor a goroutine that is started for an operation is paid for in its time. On more it is a matter of luck
	// whether another one has to be woken for it, which takes longer than any of these operations.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	times := &report.Table{Title: overheadTimes, Baseline: baseline, Variants: "tracing"}
	allocations := &report.Table{Title: overheadAllocations, Baseline: baseline, Variants: "tracing"}
	for _, op := range operations {
		times.Columns = append(times.Columns, report.Column{Name: op.name, Unit: report.Seconds, Better: report.Lower})
		allocations.Columns = append(allocations.Columns, report.Column{Name: op.name, Unit: report.Allocations, Better: report.Lower})
	}
	var variants []string
	for _, t := range tracings {
		variants = append(variants, t.name)
		if err := w.runTraced(ctx, r, t, times, allocations); err != nil {
			return nil, err
		}
	}
	candidates := append(r.names(), candidateNames(candidate.Tracing())...)
	times.Sort(variants, candidates)
	allocations.Sort(variants, candidates)
	r.ownCost, r.ownRowCost = added(times, overheadShown), added(times, overheadRows)/100
	var silent []string
	for _, c := range r.Candidates {
		if !traces(c) && c.Name() != baseline {
			silent = append(silent, c.Name())
		}
	}
	for _, t := range []*report.Table{times, allocations} {
		t.LeaveOut(silent, "with tracing on they are not repeated, because they make no OpenTelemetry spans; with metrics only "+
			"lifeguard is held against "+baseline)
	}
	return &Section{
		Title: "Overhead: what a library costs by itself",
		Text: "One goroutine, on one processor (`GOMAXPROCS=1`), on a driver in memory that does next to nothing, so that `database/sql` and the library " +
			"are all there is to measure. With tracing on, an OpenTelemetry SDK is installed, the caller has a span, " +
			"and what was recorded is dropped without being exported. Metrics are off but in the last block, where an SDK collects " +
			"lifeguard's as well. By default " +
			"lifeguard makes spans only for operations that were slow or failed; `trace=all` has it make one for " +
			"each, as the others do. A round is the fastest of several passes of a hundredth of a second, each after a " +
			"warm-up and a collection of garbage; allocations are those of its first pass. What garbage costs beyond " +
			"making it is therefore hardly in the times: see the allocations.",
		Tables:   []*report.Table{times, allocations},
		Pictures: []Picture{w.picture(r, times)},
		Cause:    w.cause,
		Headlines: []Headline{
			{
				Text: "QueryRow in memory", Table: times, Peer: "ngrok/sqlmw",
				Row: report.Row{Variant: tracings[0].name, Candidate: "lifeguard"}, Column: overheadShown,
			},
			everything(times, "QueryRow in memory, everything on", overheadShown),
			everything(times, "Exec in memory, everything on", "Exec"),
			everything(allocations, "allocations of QueryRow, everything on", overheadShown),
			everything(allocations, "allocations of Exec, everything on", "Exec"),
		},
	}, nil
}

// everything is a figure of lifeguard with all that it records.
func everything(t *report.Table, text, column string) Headline {
	return Headline{Text: text, Table: t, Row: report.Row{Variant: everythingOn, Candidate: "lifeguard"}, Column: column, Peer: "ngrok/sqlmw"}
}

// added is what lifeguard adds to an operation without tracing, in seconds; 0 if that was not measured.
func added(times *report.Table, operation string) float64 {
	row := report.Row{Variant: tracings[0].name, Candidate: "lifeguard"}
	more := stats.Median(times.Values(row, operation)) -
		stats.Median(times.Values(report.Row{Variant: row.Variant, Candidate: baseline}, operation))
	if more > 0 { // and not NaN
		return more
	}
	return 0
}

func candidateNames(list []candidate.Candidate) (names []string) {
	for _, c := range list {
		names = append(names, c.Name())
	}
	return names
}

func traces(c candidate.Candidate) bool {
	for _, t := range candidate.Tracing() {
		if t.Name() == c.Name() {
			return true
		}
	}
	return false
}

// contestants are the candidates of the run that take part with this tracing.
func (t tracing) contestants(r *Run) []candidate.Candidate {
	if t.sampler == nil {
		return r.Candidates
	}
	if t.metrics {
		return slices.DeleteFunc(slices.Clone(r.Candidates), func(c candidate.Candidate) bool {
			return c.Name() != baseline && c.Name() != "lifeguard"
		})
	}
	var list []candidate.Candidate
	asked := map[string]bool{}
	for _, c := range r.Candidates {
		asked[c.Name()] = true
		if traces(c) || c.Name() == baseline {
			list = append(list, c)
		}
	}
	for _, c := range candidate.Tracing() {
		// Those that are only compared here belong to a candidate of the run.
		if owner, ok := c.(interface{ Of() string }); ok && asked[owner.Of()] {
			list = append(list, c)
		}
	}
	return list
}

func (w overhead) runTraced(ctx context.Context, r *Run, t tracing, times, allocations *report.Table) (err error) {
	settings := candidate.Settings{Connections: overheadConnections}
	if t.sampler != nil {
		provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(t.sampler), sdktrace.WithSpanProcessor(dropped{}))
		defer func() { err = errors.Join(err, provider.Shutdown(ctx)) }()
		settings.Tracing = provider
	}
	if t.metrics {
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
		defer func() { err = errors.Join(err, provider.Shutdown(ctx)) }()
		settings.Metrics = provider
	}
	var list []candidate.Candidate
	opened := map[string]*sql.DB{}
	for _, c := range t.contestants(r) {
		db, err := c.Over(fakedriver.Fast(), settings)
		if reason := candidate.Unable(""); errors.As(err, &reason) {
			row := report.Row{Variant: t.name, Candidate: c.Name()}
			times.Missing(row, "", string(reason))
			allocations.Missing(row, "", string(reason))
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		defer db.Close()
		list, opened[c.Name()] = append(list, c), db
	}
	passes := pick(r, 5, 3, 1)
	length := pick(r, 10*time.Millisecond, 10*time.Millisecond, time.Millisecond)
	for _, op := range operations {
		often := map[string]int{}
		for _, c := range list {
			if often[c.Name()], err = op.calibrate(ctx, opened[c.Name()], settings, length); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
		for round := range r.Rounds {
			took := map[string][]float64{}
			for pass := range passes {
				for _, c := range r.order("overhead "+op.name, round*passes+pass, list) {
					perOp, allocs, err := op.measure(ctx, opened[c.Name()], settings, often[c.Name()])
					if err != nil {
						return fmt.Errorf("%s: %w", c.Name(), err)
					}
					took[c.Name()] = append(took[c.Name()], perOp)
					if pass == 0 {
						allocations.Add(report.Row{Variant: t.name, Candidate: c.Name()}, op.name, allocs)
					}
				}
			}
			for _, c := range list {
				// What disturbs a measurement of a few milliseconds makes it longer, never shorter.
				fastest, _ := stats.Range(took[c.Name()])
				times.Add(report.Row{Variant: t.name, Candidate: c.Name()}, op.name, fastest)
			}
		}
		r.logf("overhead, tracing %s: %s measured", t.name, op.name)
	}
	return nil
}

// dropped is where spans end.
type dropped struct{}

func (dropped) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (dropped) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (dropped) Shutdown(context.Context) error                  { return nil }
func (dropped) ForceFlush(context.Context) error                { return nil }

// calibrate returns how often to run the operation for a measurement of about the length given. The fastest of three
// decides: with too few, what lifeguard does for the first checkouts of every 10 ms would be all there is to see.
func (op *operation) calibrate(ctx context.Context, db *sql.DB, s candidate.Settings, length time.Duration) (int, error) {
	for n := 64; ; n *= 2 {
		fastest := math.Inf(1)
		for range 3 {
			perOp, _, err := op.measure(ctx, db, s, n)
			if err != nil {
				return 0, err
			}
			fastest = min(fastest, perOp)
		}
		if fastest*float64(n) > length.Seconds()/2 {
			return max(1, int(length.Seconds()/fastest)), nil
		}
	}
}

// measure runs the operation n times, after some more that are not counted, and returns seconds and allocations of one.
func (op *operation) measure(ctx context.Context, db *sql.DB, s candidate.Settings, n int) (perOp, allocations float64, err error) {
	// With a context that can end database/sql starts a goroutine for each query, which would be all there is to see.
	ctx = context.WithoutCancel(ctx)
	if s.Tracing != nil {
		spanCtx, span := s.Tracing.Tracer("caller").Start(ctx, "request")
		defer span.End()
		ctx = spanCtx
	}
	var st *sql.Stmt
	if op.prepared != "" {
		if st, err = db.PrepareContext(ctx, op.prepared); err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, st.Close()) }()
	}
	for range n / 10 {
		if err := op.run(ctx, db, st); err != nil {
			return 0, 0, err
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range n {
		if err := op.run(ctx, db, st); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	// What happens now and then, such as replacing a lease once a second, is not part of an operation.
	allocations = float64((after.Mallocs - before.Mallocs + uint64(n)/10) / uint64(n))
	return took.Seconds() / float64(n), allocations, nil
}

func (overhead) picture(r *Run, times *report.Table) Picture {
	bars := &chart.Bars{
		Title:       "Time of a QueryRow on a driver in memory",
		Description: "What each library costs by itself, for each of three states of tracing.",
		Note:        "time of one; shorter is better; the whiskers are the lowest and the highest round",
		Name:        report.Seconds.Format,
	}
	for _, t := range tracings {
		group := chart.Group{Name: "tracing " + t.name}
		for _, c := range t.contestants(r) {
			values := times.Values(report.Row{Variant: t.name, Candidate: c.Name()}, overheadShown)
			if len(values) == 0 {
				continue
			}
			bar := chart.Bar{Name: c.Name(), Tone: tone(c), Value: stats.Median(values)}
			bar.Lowest, bar.Top = stats.Range(values)
			group.Bars = append(group.Bars, bar)
		}
		bars.Groups = append(bars.Groups, group)
	}
	return Picture{File: "bench-overhead.svg", Alt: "Time of a QueryRow on a driver in memory", Chart: bars}
}
