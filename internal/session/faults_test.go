package session_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

var (
	allFaults = flag.Bool("faults", false, "break the network and the server at length, as make faults does")
	cancels   = flag.Int("cancels", 200, "queries that TestCancelledQueries cancels")
)

// TestFaults has one fault at a time.
func TestFaults(t *testing.T) {
	if !*allFaults {
		t.Skip("make faults runs it; TestFaultsMixed has each of these faults, too")
	}
	rnd := pooltest.Seed(t)
	server := waterServer(t)
	for _, f := range serverFaults {
		t.Run(f.name, func(t *testing.T) {
			params := f.params
			if len(params) == 0 || strings.HasPrefix(params[0], "statement_cache_size") {
				params = slices.Concat(faultParams, params)
			}
			b := newBasin(t, rnd, server, 5, params...)
			b.fill(rnd.Uint64())
			before := b.calls.Load()
			b.pause(100 * time.Millisecond)
			during := newCalls()
			b.calls.Store(during)

			b.strike(f, f.length)

			after := b.heal()
			healed := time.Now()
			b.after(aMoment, after)
			if !b.stop() {
				return
			}
			b.unnamed("before", before, f.causes) // what began before may have met the fault
			b.unnamed("during", during, f.causes)
			b.unnamed("after", after, f.causes)
			b.recovered(after)
			b.placesBack(healed.Add(b.poolTimeout + b.connectTimeout))
			acknowledgedRows, unknownRows := b.rowsThere()
			b.drain()
			t.Logf("during: %v", during)
			t.Logf("after: %v", after)
			t.Logf("%d rows acknowledged, %d unknown; %+v; at most %d on the server in %d looks; slowest %v",
				acknowledgedRows, unknownRows, b.proxy.Counts(), b.most.Load(), b.looks.Load(),
				b.slowest.Load())
			assert.Positive(t, acknowledgedRows)
		})
	}
}

// TestFaultsMixed strikes with faults at random, some on top of each other; in the short form with each of them once.
func TestFaultsMixed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	rnd := pooltest.Seed(t)
	b := newBasin(t, rnd, waterServer(t), 5, faultParams...)
	b.fill(rnd.Uint64())
	during := b.calls.Load()
	var struck []string
	if *allFaults {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			struck = append(struck, b.strikeAtRandom()...)
			b.pause(time.Duration(rnd.IntN(600)) * time.Millisecond)
		}
	} else {
		for _, i := range rnd.Perm(len(serverFaults)) {
			f := serverFaults[i]
			b.strike(f, time.Duration(rnd.IntN(400))*time.Millisecond)
			struck = append(struck, f.name)
			if rnd.IntN(3) > 0 {
				require.NoError(t, b.proxy.Heal())
				b.pause(time.Duration(rnd.IntN(300)) * time.Millisecond)
			}
		}
	}
	after := b.heal()
	healed := time.Now()
	// Twice as long as after a single fault: connections that the last faults have left half-open cost a call each.
	b.after(2*aMoment, after)
	if !b.stop() {
		return
	}
	b.unnamed("during", during, anyCause())
	b.unnamed("after", after, anyCause())
	b.recovered(after)
	b.placesBack(healed.Add(b.poolTimeout + b.connectTimeout))
	acknowledgedRows, unknownRows := b.rowsThere()
	b.drain()
	t.Logf("%d faults: %s", len(struck), strings.Join(struck, ", "))
	t.Logf("during: %v", during)
	t.Logf("after: %v", after)
	t.Logf("%d rows acknowledged, %d unknown; %+v; at most %d on the server in %d looks; slowest %v",
		acknowledgedRows, unknownRows, b.proxy.Counts(), b.most.Load(), b.looks.Load(), b.slowest.Load())
	assert.Positive(t, acknowledgedRows)
}

// strikeAtRandom strikes with one fault or two, the second in the midst of what the first has left behind, and heals the
// network now and then. It returns their names.
func (b *basin) strikeAtRandom() (struck []string) {
	for {
		f := serverFaults[b.rnd.IntN(len(serverFaults))]
		if f.rare && b.rnd.IntN(2) == 0 {
			continue
		}
		// Short as a rule, and now and then longer than every timeout.
		length := time.Duration(b.rnd.IntN(500)) * time.Millisecond
		if b.rnd.IntN(10) == 0 {
			length = b.poolTimeout + b.socketTimeout
		}
		b.strike(f, length)
		struck = append(struck, f.name)
		if len(struck) == 2 || b.rnd.IntN(3) > 0 {
			break
		}
	}
	require.NoError(b.t, b.proxy.Heal())
	return struck
}

// anyCause matches the causes of all faults.
func anyCause() string {
	var causes []string
	for _, f := range serverFaults {
		causes = append(causes, f.causes)
	}
	return strings.Join(causes, "|")
}

// TestRecovery has a thousand callers while the server is down.
func TestRecovery(t *testing.T) {
	const limit = 10
	callers := 100 // with the race detector, 200 are more than a machine with other work has time for
	if *allFaults {
		callers = 1000
	}
	rnd := pooltest.Seed(t)
	b := newBasin(t, rnd, waterServer(t), limit, "pool_timeout=1", "socket_timeout=2", "connect_timeout=2")
	down := 2500 * time.Millisecond
	b.calls.Store(newCalls())
	require.NoError(t, b.db.Ping()) // a pool that has never connected bridges no outage
	w := &writer{basin: b, ctx: context.Background()}
	seed := rnd.Uint64()
	for g := range callers {
		b.writers.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for {
				select {
				case <-b.stopping:
					return
				case <-time.After(time.Duration(200+rnd.IntN(400)) * time.Millisecond):
				}
				own := *w
				own.called = b.calls.Load()
				b.busy.Add(1)
				own.try("text", func() error { _, err := b.db.Exec("SELECT 1"); return err })
				b.busy.Add(-1)
			}
		})
	}
	b.watcher.Go(b.watch)
	b.pause(300 * time.Millisecond)

	b.server.Stop(t, "immediate")
	b.pause(100 * time.Millisecond) // for the callers that had a connection
	during := newCalls()
	b.calls.Store(during)
	before := b.proxy.Counts().Accepted
	b.pause(down)
	dials := b.proxy.Counts().Accepted - before
	b.server.Start(t)
	after := b.heal()
	back := time.Now()
	b.after(aMoment, after)
	if !b.stop() {
		return
	}

	perSecond := float64(dials) / down.Seconds()
	t.Logf("%d dials in %v, %.1f a second; at most %d at once", dials, down, perSecond, b.proxy.Counts().MostDialing)
	t.Logf("while it was down: %v", during)
	t.Logf("after: %v", after)
	assert.Positive(t, dials, "the pool tries")
	assert.LessOrEqual(t, perSecond, 5.0)
	assert.Greater(t, during.failures(), callers/2)
	// Through the proxy, a server that is down accepts and hangs up. The last callers live to see it come back, and a
	// pool that is busy with the others.
	b.unnamed("during", during, "pool timeout: (connection reset|broken pipe|end of connection|dial not finished|server says 57P03)|"+full)
	if look := time.Duration(b.slowLook.Load()); look < tooBusy {
		assert.LessOrEqual(t, during.failed[full], during.failures()/20, "errors that name the holders instead of the server")
	} else {
		t.Logf("not judged, because a plain connection to the server took %v for a look: %d errors name the holders", look, during.failed[full])
	}
	b.recovered(after)
	b.placesBack(back.Add(b.poolTimeout + b.connectTimeout))
	b.drain()
}

// TestRecoveryFromLostDials fills every slot with dials that will never end: the network has lost them, or a server that
// is gone had accepted them. They must not keep the pool from a server that is back, however long pool_timeout is.
func TestRecoveryFromLostDials(t *testing.T) {
	server := waterServer(t)
	for name, params := range map[string][]string{"connect_timeout": {"connect_timeout=6"}, "no connect_timeout": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBasin(t, nil, server, 2, slices.Concat([]string{"pool_timeout=6", "socket_timeout=1"}, params)...)
			require.NoError(t, b.db.Ping()) // a pool that has never connected cannot tell lost dials from slow ones
			b.admit(faultproxy.Silent)
			pooltest.PoolOf(t, b.db).Reset()
			answered := make(chan error, 1)
			go func() { answered <- b.db.QueryRow(selectEcho, 1).Scan(new(int)) }()
			pooltest.Eventually(t, "as many dials as there are places", func() bool { return b.proxy.Counts().Dialing == b.limit })
			b.admit(faultproxy.Forward)
			back := time.Now()
			require.NoError(t, <-answered)
			assert.LessOrEqual(t, time.Since(back), soon)
		})
	}
}
