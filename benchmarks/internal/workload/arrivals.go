package workload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/candidate"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/report"
	"github.com/go-lifeguard/lifeguard/benchmarks/internal/stats"
)

// arrivals is an open loop.
type arrivals struct {
	rng          *rand.Rand
	rate         float64 // per second
	backlog      int     // arrive at once at the beginning
	warm, window time.Duration
	patience     patience
}

// outcome is what became of the requests that were to arrive during the window.
type outcome struct {
	window   time.Duration
	offered  int
	inTime   []float64 // latencies, in seconds
	late     int
	timeouts []float64 // when they ended, in seconds after the arrival
	errors   []error
}

// offer lets requests arrive. The load goes on until each request of the window has had its time; what is unanswered
// then is late.
func (a *arrivals) offer(ctx context.Context, pool candidate.Pool) (outcome, error) {
	if err := fill(ctx, pool, overloadConnections); err != nil {
		return outcome{}, err
	}
	settle()
	base, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		o        = outcome{window: a.window}
		mu       sync.Mutex // guards o
		requests sync.WaitGroup
		begin    = time.Now()
		end      = a.warm + a.window + a.patience.inTime
	)
	arrive := func(at time.Duration) {
		counted := at >= a.warm && at < a.warm+a.window
		requests.Go(func() {
			ctx := base
			if a.patience.deadline > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithDeadline(base, begin.Add(at+a.patience.deadline))
				defer cancel()
			}
			_, err := pool.Int(ctx, overloadQuery)
			latency := time.Since(begin) - at
			if !counted {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			o.count(latency, err, base.Err() != nil, a.patience.inTime)
		})
	}
	for range a.backlog {
		arrive(0)
	}
	var err error
	for at := a.next(0); at < end && err == nil; at = a.next(at) {
		if err = sleep(ctx, at-time.Since(begin)); err == nil {
			arrive(at)
		}
	}
	if err == nil {
		err = sleep(ctx, end-time.Since(begin))
	}
	cancel()
	requests.Wait()
	return o, err
}

// next is when the request after the one at t arrives.
func (a *arrivals) next(t time.Duration) time.Duration {
	return t + time.Duration(a.rng.ExpFloat64()/a.rate*float64(time.Second))
}

// count counts a request. over says that it was ended because everything ends.
func (o *outcome) count(latency time.Duration, err error, over bool, inTime time.Duration) {
	o.offered++
	switch {
	case err == nil && latency <= inTime:
		o.inTime = append(o.inTime, latency.Seconds())
	case err == nil || over:
		o.late++
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, lifeguard.ErrPoolTimeout) || canceledByServer(err):
		o.timeouts = append(o.timeouts, latency.Seconds())
	default:
		o.errors = append(o.errors, err)
	}
}

// canceledByServer is how a query ends that was cancelled while it ran: SQLSTATE 57014.
func canceledByServer(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e) && e.SQLState() == "57014"
}

func (o *outcome) answeredPerSecond() float64 { return float64(len(o.inTime)) / o.window.Seconds() }

// From how many answers on their quantiles say something.
const (
	enoughForMedian = 20
	enoughForP99    = 100
)

// quantile is that of the answers in time.
func (o *outcome) quantile(p float64) float64 {
	return stats.Percentile(slices.Sorted(slices.Values(o.inTime)), p)
}

func (o *outcome) part(n int) float64 { return float64(n) / float64(o.offered) }

func (o *outcome) rest() string {
	text := fmt.Sprintf("%.0f %% late, %.0f %% timed out", 100*o.part(o.late), 100*o.part(len(o.timeouts)))
	if len(o.errors) > 0 {
		text += fmt.Sprintf(", %d other errors such as %v", len(o.errors), o.errors[0])
	}
	return text
}

func (o *outcome) add(t *report.Table, row report.Row, capacity float64) {
	t.Add(row, overloadAnswered, o.answeredPerSecond())
	t.Add(row, overloadPossible, o.answeredPerSecond()/min(capacity, float64(o.offered)/o.window.Seconds()))
	median, p99 := math.NaN(), math.NaN()
	if len(o.inTime) >= enoughForMedian {
		median = o.quantile(0.5)
	}
	if len(o.inTime) >= enoughForP99 {
		p99 = o.quantile(0.99)
	}
	t.Add(row, overloadMedian, median)
	t.Add(row, overloadP99, p99)
	t.Add(row, overloadLate, o.part(o.late))
	t.Add(row, overloadTimeout, o.part(len(o.timeouts)))
	t.Add(row, overloadAfter, stats.Percentile(slices.Sorted(slices.Values(o.timeouts)), 0.5))
	t.Add(row, overloadError, o.part(len(o.errors)))
}
