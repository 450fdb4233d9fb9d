package session_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// writersEach is how many callers a basin has for each connection.
const writersEach = 3

// fill starts the writers, and the watcher that counts connections on the server. The pool connects first: one that has
// never connected does not bridge anything, it tells each caller the error of its dial.
func (b *basin) fill(seed uint64) {
	b.t.Helper()
	require.NoError(b.t, b.db.Ping())
	b.calls.Store(newCalls())
	for g := range b.limit * writersEach {
		own := map[int64]ledgerOutcome{}
		b.written = append(b.written, own)
		b.writers.Go(func() {
			w := &writer{basin: b, rnd: rand.New(rand.NewPCG(seed, uint64(g))), own: own, next: b.first + int64(g)<<28, sendsLarge: g == 0}
			w.run()
		})
	}
	b.watcher.Go(b.watch)
}

// watch looks at the server every few milliseconds for the pool's connections. Those whose client has closed its end do
// not count: nobody can know of it on a server whom the news has not reached.
func (b *basin) watch() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-b.stopping:
			return
		case <-tick.C:
		}
		start := time.Now()
		ports, err := b.ports()
		if err != nil {
			continue // the server is down, or full
		}
		b.slowLook.Store(max(b.slowLook.Load(), int64(time.Since(start))))
		open := 0
		for _, port := range ports {
			if !b.proxy.ClientLeft(port) {
				open++
			}
		}
		b.looks.Add(1)
		b.most.Store(max(b.most.Load(), int64(open)))
	}
}

func (b *basin) ports() (ports []int, err error) {
	rows, err := b.look.Query("SELECT client_port FROM pg_stat_activity WHERE application_name = $1", b.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var port int
		if err := rows.Scan(&port); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, rows.Err()
}

// A writer uses the pool in all the ways there are, one after the other.
type writer struct {
	*basin
	rnd        *rand.Rand
	own        map[int64]ledgerOutcome
	next       int64
	sendsLarge bool

	ctx    context.Context // of the present piece of work
	called *calls          // those the present piece of work belongs to
}

func (w *writer) run() {
	for {
		select {
		case <-w.stopping:
			return
		case <-time.After(time.Duration(w.rnd.IntN(4000)) * time.Microsecond):
		}
		if w.paused.Load() {
			continue
		}
		w.busy.Add(1)
		w.work()
		w.busy.Add(-1)
	}
}

const (
	insertRow  = "INSERT INTO ledger VALUES ($1)"
	selectEcho = "SELECT $1::bigint"
	selectRows = "SELECT i, $1::bigint FROM generate_series(1, $2::int) AS i"
	selectSize = "SELECT octet_length($1::bytea)"
)

// work does one thing. Its rows are noted as what the pool said of them.
func (w *writer) work() {
	w.called = w.calls.Load()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch w.rnd.IntN(8) {
	case 0:
		timer := time.AfterFunc(time.Duration(w.rnd.IntN(10_000))*time.Microsecond, cancel)
		defer timer.Stop()
	case 1:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.rnd.IntN(50))*time.Millisecond)
		defer cancel()
	}
	w.ctx = ctx
	id := w.next
	w.next++
	if w.sendsLarge && w.large.Load() && w.rnd.IntN(8) == 0 {
		value := make([]byte, 2<<20)
		var size int
		if w.try("large", func() error { return w.db.QueryRowContext(ctx, selectSize, value).Scan(&size) }) == nil {
			w.same("large", int64(len(value)), int64(size))
		}
		return
	}
	switch w.rnd.IntN(6) {
	case 0:
		w.own[id] = unknown
		if w.try("insert", func() error { _, err := w.db.ExecContext(ctx, insertRow, id); return err }) == nil {
			w.own[id] = acknowledged
		}
	case 1:
		w.own[id] = w.transaction(id)
	case 2:
		var got int64
		if w.try("row", func() error { return w.db.QueryRowContext(ctx, selectEcho, id).Scan(&got) }) == nil {
			w.same("row", id, got)
		}
	case 3:
		w.try("rows", func() error { return w.rows(id, 1+w.rnd.IntN(500)) })
	case 4:
		w.prepared(id)
	case 5:
		var got int64
		if w.try("text", func() error { return w.db.QueryRowContext(ctx, fmt.Sprint("SELECT ", id)).Scan(&got) }) == nil {
			w.same("text", id, got)
		}
	}
}

// same checks a value that was read in the way what says.
func (w *writer) same(what string, want, got int64) {
	if want != got {
		w.wrong(what, want, got, nil)
	}
}

// wrong reports an answer that is not the one to the question: with its bytes, because one that differs in the last of
// them alone is not another's, and with what came after it.
func (w *writer) wrong(what string, want, got int64, after error) {
	w.t.Errorf("%s: asked for %d (%#x), got %d (%#x): a wrong answer; after it: %v; statements are kept: %v; before it: %v",
		what, want, want, got, got, after, w.cached, &w.basin.struck)
}

// strikes are the latest faults, to tell which of them an operation may have met.
type strikes struct {
	mu     sync.Mutex
	latest []string // guarded by mu
}

func (s *strikes) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const enough = 8
	if len(s.latest) == enough {
		s.latest = slices.Delete(s.latest, 0, 1)
	}
	s.latest = append(s.latest, time.Now().Format("05.000 ")+name)
}

func (s *strikes) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.latest, ", ") + time.Now().Format(", 05.000 now")
}

// strike notes when a fault begins and ends.
func (b *basin) strike(f serverFault, length time.Duration) {
	b.struck.note(f.name)
	defer b.struck.note("end of " + f.name)
	f.strike(b, length)
}

// transaction says what became of id.
func (w *writer) transaction(id int64) ledgerOutcome {
	var tx *sql.Tx
	if w.try("begin", func() (err error) { tx, err = w.db.BeginTx(w.ctx, nil); return err }) != nil {
		return refused // it was not even sent
	}
	if w.try("insert in transaction", func() error { _, err := tx.ExecContext(w.ctx, insertRow, id); return err }) != nil {
		// Whatever becomes of the rollback, nobody has asked for a commit. Why the connection is bad was said before.
		w.try("rollback", func() error { _ = tx.Rollback(); return nil })
		return refused
	}
	if w.rnd.IntN(4) == 0 {
		w.try("rollback", tx.Rollback)
		return refused
	}
	if w.try("commit", tx.Commit) != nil {
		return unknown
	}
	return acknowledged
}

// rows reads n rows. It must not take less for all of them.
func (w *writer) rows(id int64, n int) error {
	rows, err := w.db.QueryContext(w.ctx, selectRows, id, n)
	if err != nil {
		return err
	}
	defer rows.Close()
	var i int64
	for rows.Next() {
		var number, got int64
		if err := rows.Scan(&number, &got); err != nil {
			return err
		}
		i++
		if number != i || got != id {
			want := id
			if number != i {
				want, got = i, number
			}
			rows.Next()
			w.wrong("rows", want, got, rows.Err())
			return rows.Err()
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.same("number of rows", int64(n), i)
	return nil
}

func (w *writer) prepared(id int64) {
	var st *sql.Stmt
	if w.try("prepare", func() (err error) { st, err = w.db.PrepareContext(w.ctx, selectEcho); return err }) != nil {
		return
	}
	for range 2 {
		var got int64
		if w.try("prepared", func() error { return st.QueryRowContext(w.ctx, id).Scan(&got) }) == nil {
			w.same("prepared", id, got)
		}
	}
	w.try("close", func() error {
		if err := st.Close(); err != nil && !errors.Is(err, driver.ErrBadConn) {
			return err // the statement of a broken connection is gone with it
		}
		return nil
	})
}

// try times one operation and takes down how it ended. The driver's panics pass for errors.
func (w *writer) try(what string, operation func() error) (err error) {
	begin := time.Now()
	err = func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				driverPanicked.Store(true)
				err = fmt.Errorf("%w: %v", errDriverPanic, v)
			}
		}()
		return operation()
	}()
	took := time.Since(begin)
	for {
		before := w.slowest.Load()
		if before != nil && took <= before.took || w.slowest.CompareAndSwap(before, &slowest{took, what, err}) {
			break
		}
	}

	c := w.called
	c.mu.Lock()
	defer c.mu.Unlock()
	if took > c.slowest {
		c.slowest, c.what = took, what
	}
	switch {
	case err == nil:
		c.succeeded++
		if took > soon {
			c.late++
		}
	case w.ctx.Err() != nil && endOfContext(err):
		c.cancelled++
	default:
		cause := causeOf(err)
		c.failed[cause]++
		if c.errors[cause] == "" {
			c.errors[cause] = what + ": " + err.Error()
		}
	}
	return err
}

var errDriverPanic = errors.New("the driver panicked")

// driverPanicked says whether the driver ever did. lib/pq starts a goroutine for each context that can end, and a panic of
// its own, over garbage, leaves that behind.
var driverPanicked atomic.Bool

func ofDriverPanics() (options []goleak.Option) {
	if driverPanicked.Load() {
		for _, function := range []string{"(*stmt)", "(*conn)"} {
			options = append(options, goleak.IgnoreAnyFunction("github.com/lib/pq."+function+".watchCancel.func1"))
		}
	}
	return options
}

// endOfContext says whether err is how an operation ends whose context has ended.
func endOfContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, driver.ErrBadConn) || pooltest.WasCancelled(err)
}

// causeOf is what an error names as its cause, "" if it names none.
func causeOf(err error) string {
	var timeout *lifeguard.PoolTimeoutError
	if errors.As(err, &timeout) {
		switch {
		case timeout.Err != nil:
			return "pool timeout: " + causeOf(timeout.Err)
		case timeout.InUse < timeout.Limit-1: // one may be on its way from hand to hand
			return "" // something else than holders must have been the cause
		}
		return "pool timeout: full"
	}
	text := err.Error()
	var server *pq.Error
	var network net.Error
	switch {
	case errors.Is(err, errDriverPanic), strings.Contains(text, "the driver panicked while it opened a connection"):
		return "driver panicked"
	case strings.Contains(text, "socket_timeout="):
		return "socket_timeout"
	case strings.Contains(text, "was given up after"):
		return "dial given up"
	case strings.Contains(text, "has not finished after"):
		return "dial not finished"
	case strings.Contains(text, "open connections has answered a ping"):
		return "ping not answered"
	case errors.As(err, &server) && server.Code != "":
		return "server says " + string(server.Code)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	case errors.Is(err, driver.ErrBadConn), strings.Contains(text, driver.ErrBadConn.Error()):
		return "bad connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.HasSuffix(text, "EOF"):
		return "end of connection"
	case errors.As(err, &network) && network.Timeout() && strings.Contains(text, "i/o timeout"):
		return "i/o timeout"
	case strings.HasPrefix(text, "pq: "):
		return "protocol"
	}
	return ""
}
