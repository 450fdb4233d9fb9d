package workload

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/chart"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// contention is many goroutines on few connections, each asking again as soon as it has its answer.
type contention struct{}

const (
	contenders            = 100
	contendedConnections  = 5
	contentionTail        = "p99 / p50"
	contentionQueryColumn = "queries"
)

func (contention) Name() string { return "contention" }

// quantiles are the columns of a latency distribution.
var quantiles = []struct {
	name string
	at   float64
}{{"p50", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}}

// contended are the times that a query takes the server.
var contended = []time.Duration{5 * time.Millisecond, 20 * time.Millisecond}

func (w contention) Run(ctx context.Context, r *Run) (*Section, error) {
	s := &Section{Title: "Contention: who waits how long", Cause: plainCause(w.cause)}
	length := pick(r, 2500*time.Millisecond, time.Second, 200*time.Millisecond)
	for i, takes := range contended {
		table := w.table(takes)
		list := r.few(table)
		if i > 0 { // it takes its time, and those that leave the pool to database/sql differ in the first table, if anywhere
			pools, others := r.pools()
			if list = pools; r.Extent == Full {
				leaveOutOthers(table, others)
			}
		}
		pooled, err := w.measure(ctx, r, table, list, takes, length)
		if err != nil {
			return nil, err
		}
		s.Tables = append(s.Tables, table)
		s.Headlines = append(s.Headlines, w.headline(table, takes, "p99", i == 0), w.headline(table, takes, "p50", false))
		if i == 0 {
			s.Pictures = []Picture{w.picture(list, pooled)}
			s.Text = w.text(length, float64(len(pooled[list[0].Name()]))/float64(r.Rounds))
		}
	}
	return s, nil
}

func (contention) text(length time.Duration, perRound float64) string {
	return fmt.Sprintf("%d goroutines share %d connections. Each runs a query that takes the server %s, or %s in the second table, and "+
		"the next one as soon as it has its answer, for %s after a warm-up. The latency is what a caller sees: "+
		"waiting for a connection and the query. Everybody is served in turn where p99 is close to p50. The loop is "+
		"closed: who waits long asks less often, as those do who wait for an answer before they ask again; "+
		"[Overload](#overload-requests-that-come-anyway) has those who do not. Of a round's queries, about %s in the first table, "+
		"p99.9 is the slowest few; the picture is of all rounds of that one together.",
		contenders, contendedConnections, report.Duration(contended[0]), report.Duration(contended[1]), report.Duration(length),
		report.Count.Format(math.Round(perRound/100)*100))
}

func (contention) headline(t *report.Table, takes time.Duration, column string, front bool) Headline {
	return Headline{
		Text: fmt.Sprintf("%d goroutines on %d connections, %s each: %s", contenders, contendedConnections, report.Duration(takes),
			map[string]string{"p50": "half answered within", "p99": "99 in 100 answered within"}[column]),
		Table: t, Front: front, Row: report.Row{Candidate: "lifeguard"}, Column: column,
	}
}

func (contention) table(takes time.Duration) *report.Table {
	t := &report.Table{Title: "Queries of " + report.Duration(takes), Baseline: baseline}
	for _, q := range quantiles {
		t.Columns = append(t.Columns, report.Column{Name: q.name, Unit: report.Seconds, Better: report.Lower})
	}
	t.Columns = append(t.Columns,
		report.Column{Name: contentionTail, Unit: report.Count},
		report.Column{Name: contentionQueryColumn, Unit: report.PerSecond, Better: report.Higher})
	return t
}

// measure fills a table, and returns the latencies of all rounds by candidate.
func (w contention) measure(ctx context.Context, r *Run, table *report.Table, list []candidate.Candidate, takes, length time.Duration) (map[string][]float64, error) {
	query := fmt.Sprintf("SELECT 1 FROM pg_sleep(%g)", takes.Seconds())
	pooled := map[string][]float64{}
	for round := range r.Rounds {
		for _, c := range r.order(w.Name()+takes.String(), round, list) {
			var latencies []float64
			var rate float64
			err := withPool(ctx, c, r.DSN, candidate.Settings{Connections: contendedConnections}, func(pool candidate.Pool) (err error) {
				latencies, rate, err = contend(ctx, pool, query, length)
				return err
			})
			if err != nil {
				return nil, err
			}
			slices.Sort(latencies)
			row := report.Row{Candidate: c.Name()}
			for _, q := range quantiles {
				table.Add(row, q.name, stats.Percentile(latencies, q.at))
			}
			table.Add(row, contentionTail, stats.Percentile(latencies, 0.99)/stats.Percentile(latencies, 0.5))
			table.Add(row, contentionQueryColumn, rate)
			pooled[c.Name()] = append(pooled[c.Name()], latencies...)
			r.logf("contention of %s, round %d: %-22s p50 %s, p99 %s, max %s, %.0f/s", report.Duration(takes), round+1, c.Name(),
				report.Unit.Format(report.Seconds, stats.Percentile(latencies, 0.5)),
				report.Unit.Format(report.Seconds, stats.Percentile(latencies, 0.99)),
				report.Unit.Format(report.Seconds, stats.Percentile(latencies, 1)), rate)
		}
	}
	table.Sort(nil, r.names())
	return pooled, nil
}

// contend returns the latencies of all queries that began in the time measured, in seconds, and how many were answered
// per second of it.
func contend(ctx context.Context, pool candidate.Pool, query string, length time.Duration) (latencies []float64, rate float64, err error) {
	if err := fill(ctx, pool, contendedConnections); err != nil {
		return nil, 0, err
	}
	settle()
	warm := length / 4
	begin := time.Now().Add(warm)
	end := begin.Add(length)
	var (
		mu       sync.Mutex // guards what follows, and the results
		answered int
		workers  sync.WaitGroup
	)
	for range contenders {
		workers.Go(func() {
			var own []float64
			inTime := 0
			var failure error
			for {
				asked := time.Now()
				if !asked.Before(end) {
					break
				}
				if _, failure = pool.Int(ctx, query); failure != nil {
					break
				}
				now := time.Now()
				if !asked.Before(begin) {
					own = append(own, now.Sub(asked).Seconds())
				}
				if !now.Before(begin) && now.Before(end) {
					inTime++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
			answered += inTime
			if err == nil {
				err = failure
			}
		})
	}
	workers.Wait()
	return latencies, float64(answered) / length.Seconds(), err
}

func (contention) picture(list []candidate.Candidate, pooled map[string][]float64) Picture {
	// Positions are by the number of nines, so that the rare cases get as much room as the usual ones.
	nines := func(p float64) float64 { return -math.Log10(1 - p) }
	const last = 0.9999
	lines := &chart.Lines{
		Title:       fmt.Sprintf("Latency of %d goroutines on %d connections", contenders, contendedConnections),
		Description: "How many callers got their answer within which time. A flat line is the same wait for everybody.",
		X:           chart.Axis{Name: "part of the callers", Scale: nines},
		Y:           chart.Axis{Name: "latency"},
	}
	for _, t := range []struct {
		at   float64
		name string
	}{{0, "0 %"}, {0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9 %"}, {last, "99.99 %"}} {
		lines.X.Ticks = append(lines.X.Ticks, chart.Tick{At: t.at, Name: t.name})
	}
	highest := 0.0
	for _, c := range list {
		values := slices.Sorted(slices.Values(pooled[c.Name()]))
		line := chart.Line{Name: c.Name(), Tone: tone(c)}
		if line.Tone == chart.Other {
			line.Name = "the others"
		}
		for n := 0.0; n <= nines(last)+1e-9; n += 0.05 {
			p := 1 - math.Pow(10, -n)
			if float64(len(values))*(1-p) < 1 {
				break // no value is that rare
			}
			v := stats.Percentile(values, p)
			line.Points = append(line.Points, chart.Point{X: p, Y: v})
			highest = max(highest, v)
		}
		lines.Lines = append(lines.Lines, line)
	}
	lines.Y.Ticks = chart.Even(highest, func(v float64) string { return report.Seconds.Format(v) })
	lines.Y.Ticks[0].Name = "0"
	return Picture{
		File:  "bench-contention.svg",
		Alt:   lines.Title,
		Chart: lines,
	}
}

func (contention) cause(t *report.Table, loss report.Loss) string {
	switch {
	case IsPGX(loss.To) && !behindBaseline(t, loss):
		return "Both serve in turn. A change of hands takes lifeguard longer than it takes pgxpool: the handle of " +
			"`database/sql` closes a lease and opens another for each, and everybody waits for all changes before " +
			"their own."
	case loss.Column == quantiles[0].name || loss.Column == quantiles[1].name:
		return "In turn, everybody waits about as long as everybody else. Served at random, many are lucky, at the price " +
			"of those who are not: p99 and the maximum show them."
	}
	return ""
}
