package session_test

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

var soak = flag.Duration("soak", 0, "how long TestSoak shakes the pool; 0 skips it")

// soakRound is how long a storm lasts before everything is checked and the next one begins with a pool of its own.
const soakRound = 30 * time.Second

// TestSoak is TestFaultsMixed for as long as -soak says, which make soak sets. At its end, also when something did not
// hold, it prints what it did as tables in Markdown.
func TestSoak(t *testing.T) {
	if *soak <= 0 {
		t.Skip("make soak SOAK=10m runs it")
	}
	seed := os.Getenv("LIFEGUARD_TEST_SEED")
	if seed == "" {
		seed = fmt.Sprint(rand.Uint64())
		t.Setenv("LIFEGUARD_TEST_SEED", seed)
	}
	rnd := pooltest.Seed(t)
	server := waterServer(t)
	r := &soakReport{seed: seed, began: time.Now(), faults: map[string]int{}, failed: map[string]int{}}
	defer func() { r.print(os.Stdout, !t.Failed()) }()
	for end := time.Now().Add(*soak); time.Now().Before(end) && !t.Failed(); {
		params := slices.Clone(faultParams)
		if rnd.IntN(2) == 0 {
			params = append(params, "statement_cache_size=0")
		}
		t.Run(fmt.Sprint("Round=", r.rounds), func(t *testing.T) {
			r.round(newBasin(t, rnd, server, 2+rnd.IntN(7), params...), min(soakRound, time.Until(end)))
		})
		fmt.Printf("%v: round %d, %d faults, %d operations, %d of them failed, %d rows acknowledged\n",
			time.Since(r.began).Round(time.Second), r.rounds, sum(r.faults), r.succeeded+r.cancelled+sum(r.failed),
			sum(r.failed), r.acknowledged)
	}
}

// soakReport sums up the rounds.
type soakReport struct {
	seed  string
	began time.Time

	rounds                int
	faults                map[string]int
	succeeded, cancelled  int
	failed                map[string]int
	acknowledged, unknown int // rows
	connections           int
	cancelRequests        int
	looks                 int

	most, mostDials  int // over the limit
	slowest, mayTake time.Duration
	back, mayBeBack  time.Duration
	late, recovering int // calls after the last fault of each round: those that failed or came late, and all
}

func sum(counts map[string]int) (n int) {
	for _, k := range counts {
		n += k
	}
	return n
}

// round is one storm of about that length, on a pool of its own.
func (r *soakReport) round(b *basin, length time.Duration) {
	b.t.Helper()
	r.rounds++
	b.fill(b.rnd.Uint64())
	during := b.calls.Load()
	for end := time.Now().Add(length); time.Now().Before(end) && !b.t.Failed(); {
		for _, name := range b.strikeAtRandom() {
			r.faults[name]++
		}
		b.pause(time.Duration(b.rnd.IntN(600)) * time.Millisecond)
	}
	after := b.heal()
	healed := time.Now()
	b.pause(soon)
	rest := newCalls()
	b.calls.Store(rest)
	if !b.stop() {
		return
	}
	b.unnamed("during", during, anyCause())
	b.unnamed("after", after, anyCause())
	b.recovered(after)
	stopped := time.Now()
	b.placesBack(healed.Add(b.poolTimeout + b.connectTimeout))
	r.back, r.mayBeBack = max(r.back, time.Since(stopped)), b.poolTimeout+b.connectTimeout
	acknowledgedRows, unknownRows := b.rowsThere()
	counts := b.proxy.Counts()
	b.drain()

	for _, c := range []*calls{during, after, rest} {
		r.succeeded += c.succeeded
		r.cancelled += c.cancelled
		for cause, n := range c.failed {
			r.failed[cause] += n
		}
	}
	r.late += after.failures() + after.late
	r.recovering += after.succeeded + after.failures()
	r.acknowledged += acknowledgedRows
	r.unknown += unknownRows
	r.connections += counts.Accepted
	r.cancelRequests += counts.Cancels
	r.looks += int(b.looks.Load())
	if r.rounds == 1 {
		r.most, r.mostDials = -b.limit, -b.limit
	}
	r.most = max(r.most, counts.MostSessions-b.limit, int(b.most.Load())-b.limit)
	r.mostDials = max(r.mostDials, counts.MostDialing-b.limit)
	r.slowest, r.mayTake = max(r.slowest, b.slowest.Load().took), b.longest()
}

// print writes the tables that docs/faults.md has.
func (r *soakReport) print(w io.Writer, held bool) {
	row := func(what string, format string, args ...any) {
		fmt.Fprintf(w, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	table := func(what, value string) { fmt.Fprintf(w, "\n| %s | %s |\n|---|---|\n", what, value) }

	table("The run", "")
	row("length", "%v, %d rounds", time.Since(r.began).Round(time.Second), r.rounds)
	row("seed", "%s", r.seed)
	row("Go", "%s, %s/%s, %d processors", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	row("faults", "%d", sum(r.faults))
	row("operations", "%d: %d succeeded, %d ended by their own context, %d failed",
		r.succeeded+r.cancelled+sum(r.failed), r.succeeded, r.cancelled, sum(r.failed))
	row("rows acknowledged", "%d, and %d of which nobody was told whether they were written", r.acknowledged, r.unknown)
	row("connections opened", "%d, and %d to cancel a query", r.connections-r.cancelRequests, r.cancelRequests)
	row("everything held", "%s", map[bool]string{true: "yes", false: "NO: see the output above"}[held])

	table("What was promised", "What was seen")
	row("never more connections than connection_limit", "%s, in %d looks at the server and at every connection",
		overLimit(r.most), r.looks)
	row("never more dials at once than connection_limit", "%s", overLimit(r.mostDials))
	row(fmt.Sprintf("no operation takes more than pool_timeout + socket_timeout + 1s (%v)", r.mayTake),
		"the slowest took %v", r.slowest.Round(time.Millisecond))
	row("99 in 100 calls after a round's last fault succeed, within 2s", "%d of %d did not", r.late, r.recovering)
	row(fmt.Sprintf("all places are back within pool_timeout + connect_timeout (%v) of the last fault", r.mayBeBack),
		"all %v after the last caller had ended, at the most", r.back.Round(time.Millisecond))

	table("Faults", "Times")
	for _, name := range slices.Sorted(maps.Keys(r.faults)) {
		row(name, "%d", r.faults[name])
	}
	table("Cause that the error names", "Operations")
	for _, cause := range slices.Sorted(maps.Keys(r.failed)) {
		row(cmp.Or(cause, "none"), "%d", r.failed[cause])
	}
	fmt.Fprintln(w)
}

// overLimit says in words how far the most that was seen is above the limit.
func overLimit(n int) string {
	switch {
	case n > 0:
		return fmt.Sprintf("%d more", n)
	case n == 0:
		return "never more; as many at times"
	default:
		return fmt.Sprintf("at least %d fewer", -n)
	}
}
