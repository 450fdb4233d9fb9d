package lifeguard

import (
	"runtime"
	"strings"
	"sync"
	"time"
	"weak"
)

// lostTicket is how the garbage collector's finding becomes the janitor's work. Rows that were dropped without Close
// while their context can never end are a certain leak: database/sql keeps the connection for them, and nobody is left
// who could return it. (With a context that can end, a goroutine of database/sql's refers to the rows until then.)
//
// While rows are out, nothing of lifeguard's refers to them, so that they are garbage as soon as their user and
// database/sql have dropped them; while they are closed, the session does. Watching them costs one ticket per
// connection, as they are used again.
type lostTicket struct {
	session weak.Pointer[session] // weak, because the session refers to its closed rows

	// Which query gave the rows. Written while it is in progress, by the holder; read when they are lost, after
	// leaseState.lock.
	lease      uint64 // its number
	checkout   uint64
	operations int
	alone      bool // no others were open on the session

	next *lostTicket // in Pool.lost
}

func (r *rows) watchForLoss(s *session) {
	r.ticket = &lostTicket{session: weak.Make(s)}
	r.cleanup = runtime.AddCleanup(r, collected, r.ticket)
}

func (t *lostTicket) fill(l *lease) {
	word := l.state.word.Load()
	t.lease, t.checkout = l.number, word/leaseCheckout
	t.operations = l.activityOf(word).operations
	t.alone = l.session.kept.rows == 0
}

// collected runs on a goroutine of the runtime's, which must not be kept, and may not even wake the janitor: where the
// pool lives in a testing/synctest bubble, its channels and timers are not to be used from outside. The janitor looks
// for tickets by itself, often while somebody waits for a connection.
//
// The rows of a session that was closed come here as well.
func collected(t *lostTicket) {
	s := t.session.Value()
	if s == nil {
		return
	}
	for {
		t.next = s.pool.lost.Load()
		if s.pool.lost.CompareAndSwap(t.next, t) {
			return
		}
	}
}

// collectLost reports the rows that were lost, takes their connections back, and says how many there were.
func (j *janitor) collectLost(now int64) int {
	n := 0
	for t := j.pool.lost.Swap(nil); t != nil; t = t.next {
		if j.lose(t, now) {
			n++
		}
	}
	if n > 0 {
		collections.paidOff()
	}
	return n
}

func (j *janitor) lose(t *lostTicket, now int64) bool {
	s := t.session.Value()
	if s == nil {
		return false
	}
	snapshot, ok := s.holder()
	if !ok {
		return false
	}
	taken := snapshot.stack.ofConn()
	l := s.lease.Load()
	if l == nil {
		return false
	}
	word, ok := l.state.lock()
	if !ok {
		return false
	}
	if l.number != t.lease || word/leaseCheckout != t.checkout {
		l.state.unlock(word)
		return false // the rows of an earlier lease, which ended with them
	}
	// A sql.Conn goes on without its rows. Its holder may still need what belongs to the session, such as a lock, even
	// if he can never return it, so it is reported only.
	reclaim := !taken && t.alone && word&leaseStates == leaseHeld && word&leaseRaw == 0 && word&leaseInTx == 0 &&
		l.activityOf(word).operations == t.operations
	l.leaked = t.checkout
	if reclaim {
		l.state.unlock(word - leaseHeld + leaseReclaimed)
		j.takeBack(l)
	} else {
		l.state.unlock(word)
	}
	p := j.pool
	p.counters.lostRows.Add(1)
	leak := snapshot.leak(p, now)
	leak.Kind, leak.Leaked, leak.Reclaimed = LeakLostRows, true, reclaim
	if reclaim {
		delete(j.leaks, l)
	} else {
		l.watch.lost(p, t.checkout, now, now-snapshot.since)
		j.remember(l, leak)
	}
	j.span(&leak, now)
	j.tell(leak, false)
	return true
}

// ofConn says whether the stack shows that what was taken is a sql.Conn, or that an operation of one took it.
func (s *stack) ofConn() bool {
	if s.n == 0 {
		return false
	}
	frames := runtime.CallersFrames(s.pcs[:s.n])
	for {
		f, more := frames.Next()
		if f.Function == "database/sql.(*DB).Conn" || strings.HasPrefix(f.Function, "database/sql.(*Conn).") {
			return true
		}
		if !more {
			return false
		}
	}
}

// lostAge is how long ago a query must have begun whose rows are worth a garbage collection.
const lostAge = int64(50 * time.Millisecond)

// suspectsLost says whether rows may be lost: the query has returned, and its context never ends.
func (j *janitor) suspectsLost(now int64) bool {
	for _, s := range *j.pool.sessions.Load() {
		h, ok := s.holder()
		if ok && h.endless && !h.busy && !h.inTx && h.operations > 0 && now-h.began >= lostAge && !h.stack.ofConn() {
			return true
		}
	}
	return false
}

// collections are the garbage collections that the pools of this process ask for: at most one a second as long as they
// find something, and rarer and rarer, down to one in maxCollectionPause, while they do not. They cost what every
// collection costs, and would run at some time anyway.
var collections collectionRequests

const (
	minCollectionPause = time.Second
	maxCollectionPause = 10 * time.Second
)

type collectionRequests struct {
	mu      sync.Mutex
	last    time.Time     // guarded by mu
	pause   time.Duration // guarded by mu; until the next
	running bool          // guarded by mu
}

// request starts a collection, unless it is too soon for one.
func (c *collectionRequests) request() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	// The time may run backwards between a synctest bubble and what is around it.
	if since := now.Sub(c.last); c.running || since >= 0 && since < max(c.pause, minCollectionPause) {
		return false
	}
	c.last, c.running = now, true
	c.pause = min(2*max(c.pause, minCollectionPause/2), maxCollectionPause)
	go func() { // ends with the collection
		runtime.GC()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running = false
	}()
	return true
}

// paidOff is told when rows were found.
func (c *collectionRequests) paidOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pause = 0
}
