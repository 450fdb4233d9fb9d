package leak

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakePool is what a janitor looks after in these tests.
type fakePool struct {
	t       testing.TB
	start   time.Time
	janitor *Janitor
	done    chan struct{}

	collected atomic.Int64 // garbage collections that were asked for
	readings  atomic.Int64 // calls of Waiting: a look that does not rest makes at least one
	checkouts atomic.Uint64

	mu      sync.Mutex
	leases  []*fakeLease               // guarded by mu
	waiting int                        // guarded by mu
	full    bool                       // guarded by mu
	reports []Report                   // guarded by mu
	told    func(Report)               // guarded by mu; called after a report was noted
	read    func(waiting, leased bool) // guarded by mu
	panics  []any                      // guarded by mu
	onPanic func(any)                  // guarded by mu
}

// newPool starts a janitor that ends with the test. It rests until the first Wake, so its fields can still be set.
func newPool(t testing.TB, threshold, reclaimAfter time.Duration) *fakePool {
	p := &fakePool{t: t, start: time.Now(), done: make(chan struct{})}
	p.janitor = New(Config{
		Owned:     owned,
		Threshold: threshold, ReclaimAfter: reclaimAfter,
		Now: p.now, Leases: p.eachLease, Waiting: p.state, Tell: p.tell, Panicked: p.panicked, Done: p.done,
	})
	if p.janitor != nil {
		p.janitor.gc = &collections{run: func() { p.collected.Add(1) }}
	}
	t.Cleanup(func() { close(p.done) })
	return p
}

func (p *fakePool) now() int64 { return int64(time.Since(p.start)) + 1 }

func (p *fakePool) eachLease(yield func(Lease) bool) {
	p.mu.Lock()
	leases := slices.Clone(p.leases)
	p.mu.Unlock()
	for _, l := range leases {
		if !yield(l) {
			return
		}
	}
}

func (p *fakePool) state() (waiting, full, leased bool) {
	p.readings.Add(1)
	p.eachLease(func(l Lease) bool {
		_, leased = l.Hold()
		return !leased
	})
	p.mu.Lock()
	waiting, full = p.waiting > 0, p.full
	read := p.read
	p.mu.Unlock()
	if read != nil {
		read(waiting, leased)
	}
	return waiting, full, leased
}

// onceRead has f called once, after the janitor has read a state like this and before it acts on it.
func (p *fakePool) onceRead(is func(waiting, leased bool) bool, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = func(waiting, leased bool) {
		if is(waiting, leased) {
			p.mu.Lock()
			p.read = nil
			p.mu.Unlock()
			f()
		}
	}
}

func (p *fakePool) tell(r Report) {
	p.mu.Lock()
	p.reports = append(p.reports, r)
	told := p.told
	p.mu.Unlock()
	if told != nil {
		told(r)
	}
}

func (p *fakePool) panicked(v any, stack []byte) {
	p.mu.Lock()
	p.panics = append(p.panics, v)
	onPanic := p.onPanic
	p.mu.Unlock()
	if len(stack) == 0 {
		p.t.Error("a panic without its stack")
	}
	if onPanic != nil {
		onPanic(v)
	}
}

// take gives the reports since the last call.
func (p *fakePool) take() []Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	reports := p.reports
	p.reports = nil
	return reports
}

// after lets virtual time pass and gives the reports made meanwhile.
func (p *fakePool) after(d time.Duration) []Report {
	time.Sleep(d)
	synctest.Wait()
	return p.take()
}

// setWaiting says how many callers wait, and on what.
func (p *fakePool) setWaiting(n int, full bool) {
	p.mu.Lock()
	p.waiting, p.full = n, full
	p.mu.Unlock()
	if n > 0 {
		p.janitor.Alert()
	}
}

func (p *fakePool) lease() *fakeLease {
	l := &fakeLease{pool: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases = append(p.leases, l)
	return l
}

// fakeLease is a lease with its own record.
type fakeLease struct {
	pool *fakePool

	mu     sync.Mutex
	held   bool     // guarded by mu
	hold   Hold     // guarded by mu
	asked  []asking // guarded by mu
	marked []uint64 // guarded by mu
	keeps  any      // something that the lease refers to
}

// asking is a call of Reclaim, and what the lease was like then.
type asking struct {
	checkout   uint64
	operations int
	at         int64
	held       bool
	hold       Hold
	took       bool
}

func (l *fakeLease) Hold() (Hold, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hold, l.held
}

func (l *fakeLease) MarkLeaked(checkout uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked = append(l.marked, checkout)
	if l.held && l.hold.Checkout == checkout {
		l.hold.Leaked = true
	}
}

func (l *fakeLease) Reclaim(checkout uint64, operations int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.hold
	took := l.held && h.Checkout == checkout && h.Operations == operations && !h.Running && !h.Raw
	l.asked = append(l.asked, asking{checkout, operations, l.pool.now(), l.held, *h, took})
	if took {
		l.held = false
	}
	return took
}

// askings are the calls of Reclaim so far.
func (l *fakeLease) askings() []asking {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked)
}

// checkout begins a checkout; change fills the rest of its record.
func (l *fakeLease) checkout(change func(*Hold)) uint64 {
	n := l.pool.checkouts.Add(1)
	l.mu.Lock()
	l.held, l.hold = true, Hold{Checkout: n, Since: l.pool.now()}
	if change != nil {
		change(&l.hold)
	}
	l.mu.Unlock()
	l.pool.janitor.Wake()
	return n
}

// begin begins an operation of this checkout; false if the connection was taken back.
func (l *fakeLease) begin(checkout uint64, query string) bool {
	return l.change(checkout, func(h *Hold) {
		h.Running, h.Began, h.Query = true, l.pool.now(), query
		h.Operations++
	})
}

func (l *fakeLease) end(checkout uint64) bool {
	return l.change(checkout, func(h *Hold) { h.Running, h.Touched = false, l.pool.now() })
}

// run is an operation that takes no time.
func (l *fakeLease) run(checkout uint64, query string) bool {
	return l.begin(checkout, query) && l.end(checkout)
}

func (l *fakeLease) touch(checkout uint64) bool {
	return l.change(checkout, func(h *Hold) { h.Touched = l.pool.now() })
}

func (l *fakeLease) release(checkout uint64) bool {
	return l.change(checkout, func(*Hold) { l.held = false })
}

func (l *fakeLease) change(checkout uint64, f func(*Hold)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held || l.hold.Checkout != checkout {
		return false
	}
	f(&l.hold)
	return true
}

// ticket gives a ticket for the last operation.
func (l *fakeLease) ticket(alone, fromDB bool) *Ticket {
	t := l.pool.janitor.NewTicket()
	h, _ := l.Hold()
	l.change(h.Checkout, func(h *Hold) {
		h.Stack = nil
		if fromDB {
			h.Stack = []uintptr{ofDBQuery}
		}
	})
	t.Fill(l, h.Checkout, h.Operations, alone)
	return t
}

// is compares what a report says, and its time to a tolerance below a tick.
func (r *Report) is(t *testing.T, checkout uint64, held, tick time.Duration, want Report) {
	t.Helper()
	if r.Checkout != checkout || r.Kind != want.Kind || r.First != want.First || r.Again != want.Again ||
		r.Reclaimed != want.Reclaimed || r.Returned != want.Returned || r.StillRunning != want.StillRunning {
		t.Errorf("report of checkout %d: %+v, want of %d: %+v", r.Checkout, *r, checkout, want)
	}
	if r.Held < held || r.Held > held+tick {
		t.Errorf("held %v, want %v to %v", r.Held, held, held+tick)
	}
	if r.Leaked != !r.StillRunning {
		t.Errorf("Leaked is %v in %+v", r.Leaked, *r)
	}
}

// one is the only report of those given.
func one(t *testing.T, reports []Report) *Report {
	t.Helper()
	if len(reports) != 1 {
		t.Fatalf("%d reports, want one: %+v", len(reports), reports)
	}
	return &reports[0]
}

func none(t *testing.T, reports []Report) {
	t.Helper()
	if len(reports) != 0 {
		t.Fatalf("unexpected reports: %+v", reports)
	}
}

func (p *fakePool) counts(t *testing.T, leaks, lostRows, lostLater, reclaimed uint64) {
	t.Helper()
	a, b, c, d := p.janitor.Counts()
	if got, want := [...]uint64{a, b, c, d}, [...]uint64{leaks, lostRows, lostLater, reclaimed}; got != want {
		t.Errorf("leaks, lost rows, lost later, reclaimed: %v, want %v", got, want)
	}
}

// ofDBQuery stands for the stack of a checkout for one result alone.
const ofDBQuery = uintptr(7)

func owned(stack []uintptr) bool { return len(stack) > 0 && stack[0] == ofDBQuery }
