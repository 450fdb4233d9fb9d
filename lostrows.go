package lifeguard

import (
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
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
	lease      uint64 // lease.number
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
	t.operations = l.hold.activity[word/leaseActivity&1].operations
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
	origin := originOf(snapshot.site)
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
	reclaim := origin == fromDB && t.alone && l.untouchedSince(word, t.operations)
	again := l.leaked == t.checkout // as a connection that is held too long, or for other rows
	l.leaked = t.checkout
	if reclaim {
		l.state.unlock(word - leaseHeld + leaseReclaimed)
		j.takeBack(l)
	} else {
		l.state.unlock(word)
	}
	p := j.pool
	p.counters.lostRows.Add(1)
	if again {
		p.counters.lostLater.Add(1)
	}
	leak := snapshot.leak(p, now)
	leak.Kind, leak.Leaked, leak.Reclaimed = LeakLostRows, true, reclaim
	if reclaim {
		j.forget(l, t.checkout, now)
	} else {
		l.watch.lost(p, t, origin, now, now-snapshot.since)
		j.remember(l, leak, now)
	}
	if !again {
		j.span(&leak, now)
	}
	j.tell(leak, false)
	return true
}

// untouchedSince says whether the holder of a lease that was locked when its state was word is idle, has done nothing
// since the given operation, and cannot have done anything that is not seen.
func (l *lease) untouchedSince(word uint64, operation int) bool {
	return word&leaseStates == leaseHeld && word&(leaseRaw|leaseInTx) == 0 && l.activityOf(word).operations == operation
}

// origin is what a connection was taken for, and with that whether somebody may be left who uses it when rows were lost.
//
// From a sql.DB, nobody: the connection belonged to the rows. From a sql.Conn, perhaps its holder, or perhaps it was
// dropped as well: the driver can never tell, as all that a sql.Conn refers to is referred to by the sql.DB, too. Neither
// can he return the connection, because the Close of a sql.Conn waits for all its rows, for ever. To close the rows in
// the driver on his behalf would not change that, and reading them to their end may take as long as they please. So the
// connection is taken back from him, and he gets ErrReclaimed rather than a hang; but with patience, as he may be about
// to use it, or may need what belongs to the session, such as a lock: see watch.patience.
type origin int

const (
	fromDB origin = iota
	fromConn
	fromUnknown // its stack was not taken
)

func originOf(s *callsite.Site) origin {
	switch {
	case s == nil:
		return fromUnknown
	case s.Conn:
		return fromConn
	default:
		return fromDB
	}
}

// lostAge is how long ago a query must have begun whose rows are worth a garbage collection.
const lostAge = int64(50 * time.Millisecond)

// suspectsLost says whether rows may be lost that were not found yet: a query was the last operation, it has returned,
// and its context never ends.
func (j *janitor) suspectsLost(now int64) bool {
	for _, s := range *j.pool.sessions.Load() {
		l := s.lease.Load()
		if l == nil {
			continue
		}
		word, ok := l.state.lock()
		if !ok {
			continue
		}
		a := l.activityOf(word)
		suspect := a.endless && now-a.began >= lostAge && l.untouchedSince(word, a.operations) && !l.watch.knows(word, a.operations)
		l.state.unlock(word)
		if suspect {
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
