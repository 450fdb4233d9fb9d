package leak

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// What a lost result leads to: its connection is taken back at once, or it is only reported.
func TestLost(t *testing.T) {
	type state struct {
		alone, fromDB bool
		since         func(l *fakeLease, checkout uint64) // what happened since the query
	}
	nothing := func(*fakeLease, uint64) {}
	for name, test := range map[string]struct {
		state
		taken bool
	}{
		"FromDB":       {state{true, true, nothing}, true},
		"NotFromDB":    {state{true, false, nothing}, false},
		"NotAlone":     {state{false, true, nothing}, false},
		"Neither":      {state{false, false, nothing}, false},
		"UsedSince":    {state{true, true, func(l *fakeLease, c uint64) { l.run(c, "next") }}, false},
		"InUse":        {state{true, true, func(l *fakeLease, c uint64) { l.begin(c, "next") }}, false},
		"StillRunning": {state{true, true, func(l *fakeLease, c uint64) { l.change(c, func(h *Hold) { h.Running = true }) }}, false},
		"InTx":         {state{true, true, func(l *fakeLease, c uint64) { l.change(c, func(h *Hold) { h.InTx = true }) }}, false},
		"Raw":          {state{true, true, func(l *fakeLease, c uint64) { l.change(c, func(h *Hold) { h.Raw = true }) }}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, time.Minute, 0)
				l := p.lease()
				checkout := l.checkout(nil)
				l.run(checkout, "q")
				ticket := l.ticket(test.alone, test.fromDB)
				test.since(l, checkout)
				none(t, p.after(10*time.Second))
				ticket.Lost()
				r := one(t, p.after(time.Second))
				r.is(t, checkout, 10*time.Second, time.Second, Report{Kind: LostRows, First: true, Reclaimed: test.taken})
				if test.taken {
					p.counts(t, 0, 1, 0, 1)
					none(t, p.after(time.Hour))
					return
				}
				p.counts(t, 0, 1, 0, 0)
				h, held := l.Hold()
				if !held || !h.Leaked {
					t.Error("the lease does not say that it was reported")
				}
				l.change(checkout, func(h *Hold) { h.Running = false })
				one(t, p.after(50*time.Second)).is(t, checkout, time.Minute, time.Second, Report{Kind: LostRows, Again: true})
				l.release(checkout)
				one(t, p.after(time.Second)).is(t, checkout, time.Minute, 2*time.Second, Report{Kind: LostRows, Returned: true})
				p.counts(t, 0, 1, 0, 0)
			})
		})
	}
}

// Rows lost on a sql.Conn: its session may hold a lock that somebody counts on, however long nobody touches it, and
// whoever waits. Only leak_reclaim_after ends that.
func TestLostRowsOfConn(t *testing.T) {
	for name, after := range map[string]time.Duration{"NoReclaimAfter": 0, "ReclaimAfter": 3 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, time.Minute, after)
				l := p.lease()
				checkout := l.checkout(nil)
				l.run(checkout, "SELECT pg_advisory_lock(1)")
				l.ticket(true, false).Lost()
				p.setWaiting(1, true)
				one(t, p.after(time.Second)).is(t, checkout, 0, 20*time.Millisecond, Report{Kind: LostRows, First: true})
				p.after(178 * time.Second)
				if asked := l.askings(); len(asked) != 0 {
					t.Fatalf("Reclaim was asked for: %+v", asked)
				}
				reports := p.after(2 * time.Second)
				if after > 0 {
					one(t, reports).is(t, checkout, after, time.Second, Report{Kind: LostRows, Reclaimed: true})
					return
				}
				none(t, reports)
				p.after(3 * time.Hour)
				if asked := l.askings(); len(asked) != 0 {
					t.Fatalf("Reclaim was asked for: %+v", asked)
				}
			})
		})
	}
}

// A result of a checkout that was reported before is counted as that.
func TestLostLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		a, b := p.lease(), p.lease()
		ca, cb := a.checkout(nil), b.checkout(nil)
		a.run(ca, "q")
		b.run(cb, "q")
		ta, tb := a.ticket(true, true), b.ticket(true, false)
		if n := len(p.after(time.Minute)); n != 2 {
			t.Fatalf("%d reports, want 2", n)
		}
		ta.Lost()
		one(t, p.after(time.Second)).is(t, ca, time.Minute, time.Second, Report{Kind: LostRows, Reclaimed: true})
		p.counts(t, 2, 1, 1, 1)
		tb.Lost()
		one(t, p.after(time.Second)).is(t, cb, time.Minute, 2*time.Second, Report{Kind: LostRows})
		p.counts(t, 2, 2, 2, 1)
		b.release(cb)
		one(t, p.after(time.Second)).is(t, cb, time.Minute, 3*time.Second, Report{Kind: LostRows, Returned: true})
	})
}

// Tickets of what is over by itself: an earlier checkout, a session that is gone, a lease that nobody holds.
func TestLostTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		l.run(checkout, "q")
		earlier := l.ticket(true, true)
		l.release(checkout)
		next := l.checkout(nil)
		l.run(next, "q")
		gone := p.janitor.NewTicket()
		gone.Fill(l, next, 1, true)
		gone.Empty()
		earlier.Lost()
		gone.Lost()
		none(t, p.after(10*time.Second))
		last := l.ticket(true, true)
		l.release(next)
		last.Lost()
		none(t, p.after(time.Hour))
		p.counts(t, 0, 0, 0, 0)
		if asked := l.askings(); len(asked) != 0 {
			t.Errorf("Reclaim was asked for: %+v", asked)
		}
	})
}

// While somebody waits, the janitor does not wait for its tick.
func TestAlertFindsSooner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		l.run(checkout, "q")
		ticket := l.ticket(true, true)
		p.after(10100 * time.Millisecond) // between two ticks
		p.setWaiting(1, true)
		time.Sleep(5 * time.Millisecond)
		ticket.Lost()
		one(t, p.after(6*time.Millisecond)).is(t, checkout, 10110*time.Millisecond, time.Millisecond,
			Report{Kind: LostRows, First: true, Reclaimed: true})
	})
}

// Where rows were lost there are often more: after a find the janitor looks soon again, however long somebody waits.
func TestFindHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		a, b := p.lease(), p.lease()
		a.run(a.checkout(nil), "q")
		b.run(b.checkout(nil), "q")
		p.setWaiting(2, true)
		p.after(20 * time.Second)
		a.ticket(true, true).Lost()
		for len(p.after(time.Millisecond)) == 0 {
		}
		b.ticket(true, true).Lost()
		one(t, p.after(11*time.Millisecond))
	})
}

// The pauses double while nothing is found, so that long waits cost few looks.
func TestAlertTires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		p.after(10 * time.Second)
		p.setWaiting(1, false)
		before := p.readings.Load()
		p.after(20 * time.Second)
		if n := p.readings.Load() - before; n < 20 || n > 60 {
			t.Errorf("%d readings in 20 s in which somebody waited", n)
		}
		l.release(checkout)
	})
}

// Whether a collection is asked for: somebody waits on a full pool, and rows that nothing can end lie unused.
func TestAsksForCollection(t *testing.T) {
	endless := func(h *Hold) { h.Endless, h.Operations = true, 1 }
	for name, test := range map[string]struct {
		hold    func(*Hold)
		waiting int
		full    bool
		want    int64
	}{
		"Waiter":       {endless, 1, true, 3}, // in 30 s
		"NobodyWaits":  {endless, 0, true, 0},
		"NotFull":      {endless, 1, false, 0},
		"ContextEnds":  {func(h *Hold) { h.Operations = 1 }, 1, true, 0},
		"Running":      {func(h *Hold) { endless(h); h.Running = true }, 1, true, 0},
		"Transaction":  {func(h *Hold) { endless(h); h.InTx = true }, 1, true, 0},
		"OutOfSight":   {func(h *Hold) { endless(h); h.Raw = true }, 1, true, 0},
		"UsedJustNow":  {func(h *Hold) { endless(h); h.Touched = int64(time.Hour) }, 1, true, 0},
		"BegunJustNow": {func(h *Hold) { endless(h); h.Began = int64(time.Hour) }, 1, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, 5*time.Minute, 0)
				p.lease().checkout(test.hold)
				p.lease().checkout(nil)
				p.setWaiting(test.waiting, test.full)
				p.after(950 * time.Millisecond)
				if n := p.collected.Load(); n != 0 {
					t.Errorf("%d collections for rows that were used within a second", n)
				}
				p.after(28*time.Second + 950*time.Millisecond)
				if n := p.collected.Load(); n != test.want {
					t.Errorf("%d collections, want %d", n, test.want)
				}
			})
		})
	}
}

// What was found already is no reason for another collection; a new query is.
func TestNoCollectionForWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 5*time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		l.run(checkout, "q")
		l.change(checkout, func(h *Hold) { h.Endless, h.Stack = true, []uintptr{ofDBQuery} })
		l.ticket(true, false).Lost()
		p.setWaiting(1, true)
		p.after(time.Minute)
		if n := p.collected.Load(); n != 0 {
			t.Errorf("%d collections for rows that were found", n)
		}
		l.run(checkout, "q")
		p.after(5 * time.Second)
		if n := p.collected.Load(); n != 1 {
			t.Errorf("%d collections for rows that were not found, want 1", n)
		}
	})
}

// A dropped result of a pool that lives in real time is found by a real collection that its waiter causes.
func TestCollectorFindsResult(t *testing.T) {
	p := newPool(t, time.Minute, 0)
	told := make(chan Report, 10)
	p.told = func(r Report) { told <- r }
	p.janitor.gc = &collections{run: func() { p.collected.Add(1); runtime.GC() }}
	l, kept := p.lease(), p.lease()
	checkout, other := l.checkout(nil), kept.checkout(nil)
	keep := query(kept, other)
	query(l, checkout)
	p.setWaiting(1, true)
	select {
	case r := <-told:
		r.is(t, checkout, 0, 20*time.Second, Report{Kind: LostRows, First: true, Reclaimed: true})
	case <-time.After(20 * time.Second):
		t.Fatal("the result was not found")
	}
	if p.collected.Load() == 0 {
		t.Log("another collection was first")
	}
	runtime.GC()
	if _, held := kept.Hold(); !held {
		t.Error("a result in use was taken for lost")
	}
	runtime.KeepAlive(keep)
}

// result is what an application reads rows from.
type result struct {
	lease  *fakeLease
	ticket *Ticket
}

// query must not be inlined, or the result may live as long as its caller.
//
//go:noinline
func query(l *fakeLease, checkout uint64) *result {
	r := &result{lease: l}
	r.ticket = l.pool.janitor.NewTicket()
	runtime.AddCleanup(r, (*Ticket).Lost, r.ticket)
	l.begin(checkout, "q")
	h, _ := l.Hold()
	r.ticket.Fill(l, checkout, h.Operations, true)
	l.end(checkout)
	l.change(checkout, func(h *Hold) { h.Endless, h.Stack = true, []uintptr{ofDBQuery} })
	return r
}

// The runtime keeps a ticket while its result lives. If an empty ticket kept the pool, a pool that is dropped together with a
// closed result that one of its leases refers to would never be freed.
func TestTicketKeepsNoPool(t *testing.T) {
	pool := droppedPool(t)
	for end := time.Now().Add(20 * time.Second); pool.Value() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the pool is still referred to")
		}
		runtime.GC()
	}
}

//go:noinline
func droppedPool(t *testing.T) weak.Pointer[fakePool] {
	p := &fakePool{t: t, start: time.Now(), done: make(chan struct{})}
	p.janitor = New(Config{Threshold: time.Minute, Now: p.now, Leases: p.eachLease, Waiting: p.state, Owned: owned, Tell: p.tell, Done: p.done})
	l := p.lease()
	closed := query(l, l.checkout(nil))
	closed.ticket.Empty()
	l.keeps = closed // as a session does with rows that were closed
	close(p.done)
	return weak.Make(p)
}

// Tickets are lost outside of the bubble in which the pool lives: Lost touches nothing that belongs to the bubble.
func TestLostOutsideBubble(t *testing.T) {
	tickets := make(chan *Ticket)
	lost := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		(<-tickets).Lost()
		close(lost)
	})
	var checkout uint64
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout = l.checkout(nil)
		l.run(checkout, "q")
		tickets <- l.ticket(true, true)
		<-lost
		one(t, p.after(time.Second)).is(t, checkout, 0, time.Second, Report{Kind: LostRows, First: true, Reclaimed: true})
	})
	wg.Wait()
}
