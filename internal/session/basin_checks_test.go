package session_test

import (
	"context"
	"database/sql"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// heal ends the faults and gives back the calls that begin from then on.
func (b *basin) heal() *calls {
	b.t.Helper()
	require.NoError(b.t, b.proxy.Heal())
	b.slowLook.Store(0)
	c := newCalls()
	b.calls.Store(c)
	return c
}

// longest is the longest that a caller may wait.
func (b *basin) longest() time.Duration { return b.poolTimeout + b.socketTimeout + time.Second }

// unnamed reports errors that name no cause, or not one of those that match causes.
func (b *basin) unnamed(during string, c *calls, causes string) {
	b.t.Helper()
	match := regexp.MustCompile("^(" + causes + ")$")
	c.mu.Lock()
	defer c.mu.Unlock()
	for cause, n := range c.failed {
		if cause == "" || !match.MatchString(cause) {
			b.t.Errorf("%s: %d errors name %q as their cause, which it was not: %s", during, n, cause, c.errors[cause])
		}
	}
}

// soon is within what calls succeed again after a fault.
const soon = 2 * time.Second

// tooBusy is how long a look at the server past pool and proxy takes only where this machine has no time for anybody.
const tooBusy = 100 * time.Millisecond

// recovered checks the calls that began in the first moment after the network was healed: 99 in 100 succeed soon.
func (b *basin) recovered(c *calls) {
	b.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.succeeded + c.failures()
	assert.Positive(b.t, n)
	switch look := time.Duration(b.slowLook.Load()); {
	case 100*(c.succeeded-c.late) >= 99*n:
	case look >= tooBusy:
		b.t.Logf("not judged, because a plain connection to the server took %v for a look: %d of %d calls failed and %d took more than %v",
			look, c.failures(), n, c.late, soon)
	default:
		b.t.Errorf("after the end of the fault %d of %d calls failed and %d took more than %v (a look took %v): %v",
			c.failures(), n, c.late, soon, look, c.errors)
	}
}

// stop ends the writers. If some of them hang, it reports that, frees them, and answers false.
func (b *basin) stop() bool {
	b.t.Helper()
	close(b.stopping)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.writers.Wait()
		b.watcher.Wait()
	}()
	select {
	case <-ended:
		return true
	case <-time.After(b.longest()):
		buf := make([]byte, 1<<20)
		b.t.Errorf("%d callers are still waiting %v after the last call began:\n%s", b.busy.Load(), b.longest(),
			callersIn(string(buf[:runtime.Stack(buf, true)])))
		require.NoError(b.t, b.proxy.Close())
		<-ended
		return false
	}
}

// callersIn picks one writer's stack out of all.
func callersIn(stacks string) string {
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if strings.Contains(stack, "(*writer).try") {
			return stack
		}
	}
	return stacks
}

// placesBack checks that by deadline the pool has nothing in use and can give out everything it has, and that no
// statement is left on its connections.
func (b *basin) placesBack(deadline time.Time) {
	b.t.Helper()
	pool := pooltest.PoolOf(b.t, b.db)
	for {
		st := pool.Stats()
		if st.InUse == 0 && st.Waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			b.t.Errorf("places are missing: %+v, %+v", st, pool.Holders())
			return
		}
		time.Sleep(time.Millisecond)
	}
	// What is due at once, with a moment for a machine that does other things too.
	deadline = later(deadline, time.Now().Add(time.Second))
	ctx, cancel := context.WithDeadline(b.t.Context(), deadline)
	defer cancel()
	conns := make([]*sql.Conn, b.limit)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			c, err := b.db.Conn(ctx)
			if assert.NoError(b.t, err, "place %d of %d, %+v", i+1, b.limit, pool.Stats()) {
				conns[i] = c
			}
		})
	}
	b.quickly(time.Until(deadline)+time.Second, "taking all places", wg.Wait)
	pids := map[int]bool{}
	for _, c := range conns {
		if c == nil {
			continue
		}
		var pid, statements, texts int
		const question = "SELECT pg_backend_pid(), (SELECT count(*) FROM pg_prepared_statements), " +
			"(SELECT count(DISTINCT statement) FROM pg_prepared_statements)"
		if assert.NoError(b.t, c.QueryRowContext(ctx, question).Scan(&pid, &statements, &texts)) {
			pids[pid] = true
			assert.Equal(b.t, texts, statements, "a statement is prepared more than once on a connection")
			if !b.cached {
				assert.Zero(b.t, statements, "statements left")
			}
		}
	}
	assert.Len(b.t, pids, b.limit)
	for _, c := range conns {
		if c != nil {
			assert.NoError(b.t, c.Close())
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rowsThere compares what the pool said of the rows with the rows.
func (b *basin) rowsThere() (acknowledgedRows, unknownRows int) {
	b.t.Helper()
	there := map[int64]bool{}
	rows, err := b.look.Query("SELECT id FROM ledger WHERE id >= $1 AND id < $2", b.first, b.first+idsEach)
	require.NoError(b.t, err)
	defer rows.Close()
	for rows.Next() {
		var id int64
		require.NoError(b.t, rows.Scan(&id))
		there[id] = true
	}
	require.NoError(b.t, rows.Err())
	for _, own := range b.written {
		for id, outcome := range own {
			switch {
			case outcome == acknowledged && !there[id]:
				b.t.Errorf("row %d is missing, though it was acknowledged", id)
			case outcome == refused && there[id]:
				b.t.Errorf("row %d is there, though it was never committed", id)
			}
			switch outcome {
			case acknowledged:
				acknowledgedRows++
			case unknown:
				unknownRows++
			}
		}
	}
	return acknowledgedRows, unknownRows
}

// drain closes everything and checks that nothing is left.
func (b *basin) drain() {
	b.t.Helper()
	counts := b.proxy.Counts()
	assert.LessOrEqual(b.t, counts.MostSessions, b.limit, "connections at the proxy")
	assert.LessOrEqual(b.t, counts.MostDialing, b.limit, "dials at the proxy")
	assert.LessOrEqual(b.t, int(b.most.Load()), b.limit, "connections on the server")
	assert.NotZero(b.t, b.looks.Load())
	assert.LessOrEqual(b.t, b.slowest.Load().took, b.longest(), "%v", b.slowest.Load())

	b.quickly(b.longest(), "closing the handle", func() { assert.NoError(b.t, b.db.Close()) })
	ours := append(ofDriverPanics(), b.goroutines)
	for _, function := range []string{"(*link).run", "(*pump).read", "(*pump).write", "(*Proxy).resume.func1"} {
		ours = append(ours, goleak.IgnoreAnyFunction("github.com/go-lifeguard/lifeguard/internal/faultproxy."+function))
	}
	// A dial that was under way ends by itself, and so does a request to cancel.
	limit := time.Now().Add(max(b.connectTimeout, b.poolTimeout) + time.Second)
	err := goleak.Find(ours...)
	for err != nil && time.Now().Before(limit) {
		err = goleak.Find(ours...)
	}
	assert.NoError(b.t, err, "goroutines left")
	assert.Zero(b.t, b.proxy.Counts().Sessions, "connections left")

	assert.NoError(b.t, b.proxy.Close())
	require.NoError(b.t, b.look.Ping())
	left := 0
	assert.Eventually(b.t, func() bool { left = descriptors(b.t); return left <= b.descriptors }, 5*time.Second,
		5*time.Millisecond, "descriptors")
	if left > b.descriptors {
		b.t.Errorf("%d descriptors, %d before", left, b.descriptors)
	}
}

// aMoment is how long after a fault calls are looked at, or until there were some, but not longer than soon.
const aMoment = 600 * time.Millisecond

// after waits for calls that begin after a fault to end.
func (b *basin) after(moment time.Duration, c *calls) {
	healed := time.Now()
	b.pause(moment)
	const some = 100
	for c.count() < some && time.Since(healed) < soon {
		b.pause(10 * time.Millisecond)
	}
	b.calls.Store(newCalls())
}
