package leak

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
)

func TestHeldTooLong(t *testing.T) {
	for _, threshold := range []time.Duration{5 * time.Millisecond, 100 * time.Millisecond, 5 * time.Second, time.Minute} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testHeldTooLong(t, threshold) })
		})
	}
}

// A leak is reported after the threshold, at each doubling, and when it is returned; each time within a tick.
func testHeldTooLong(t *testing.T, threshold time.Duration) {
	tick := min(max(threshold/10, time.Millisecond), time.Second)
	p := newPool(t, threshold, 0)
	p.lease().checkout(func(h *Hold) { h.Since += int64(1000 * time.Hour) }) // so that it does not rest
	none(t, p.after(rand.N(2*threshold)))                                    // its rounds must not matter
	l := p.lease()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	checkout := l.checkout(func(h *Hold) { h.InTx, h.Stack, h.Span = true, []uintptr{3, 4}, span })
	l.run(checkout, "SELECT 'a'")

	for i, times := range []time.Duration{1, 2, 4, 8} {
		none(t, p.after(time.Duration(int64(times*threshold)-(p.now()-l.hold.Since)-1)))
		r := one(t, p.after(tick+1))
		r.is(t, checkout, times*threshold, tick, Report{Kind: Held, First: i == 0, Again: i > 0})
		if !r.InTx || len(r.Stack) != 2 || !r.Span.Equal(span) || r.Query != "SELECT 'a'" || r.Operations != 1 {
			t.Errorf("the record did not reach the report: %+v", r)
		}
		p.counts(t, 1, 0, 0, 0)
	}
	if h, _ := l.Hold(); !h.Leaked {
		t.Error("the lease does not say that it was reported")
	}

	none(t, p.after(threshold))
	held := time.Duration(p.now() - l.hold.Since)
	l.release(checkout)
	one(t, p.after(tick)).is(t, checkout, held, tick, Report{Kind: Held, Returned: true})
	none(t, p.after(100*threshold))
	p.counts(t, 1, 0, 0, 0)
}

func TestReturnedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 10*time.Millisecond, 10*time.Millisecond)
		l := p.lease()
		for range 1000 {
			checkout := l.checkout(nil)
			l.run(checkout, "q")
			time.Sleep(rand.N(10*time.Millisecond - 1))
			if !l.release(checkout) {
				t.Fatal("a checkout in time was ended")
			}
		}
		none(t, p.after(time.Second))
		p.counts(t, 0, 0, 0, 0)
		if len(l.askings())+len(l.marked) != 0 {
			t.Error("the lease was called for a checkout in time")
		}
	})
}

// The next checkout of a lease begins before the janitor has seen the end of the one before.
func TestNextCheckoutMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		first := l.checkout(nil)
		one(t, p.after(60*time.Second)).is(t, first, time.Minute, time.Second, Report{First: true})
		time.Sleep(100 * time.Millisecond)
		l.release(first)
		second := l.checkout(nil)
		one(t, p.after(time.Second)).is(t, first, 60*time.Second, 2*time.Second, Report{Returned: true})
		if h, _ := l.Hold(); h.Leaked {
			t.Error("the mark of one checkout is on the next")
		}
		one(t, p.after(time.Minute)).is(t, second, time.Minute, time.Second, Report{First: true})
		p.counts(t, 2, 0, 0, 0)
	})
}

// The same, and the result of the next checkout is lost at once.
func TestNextCheckoutLostMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		first := l.checkout(nil)
		one(t, p.after(60*time.Second)).is(t, first, time.Minute, time.Second, Report{First: true})
		time.Sleep(100 * time.Millisecond)
		l.release(first)
		second := l.checkout(nil)
		l.run(second, "q")
		l.ticket(true, true).Lost()
		reports := p.after(time.Second)
		if len(reports) != 2 {
			t.Fatalf("%d reports, want 2: %+v", len(reports), reports)
		}
		reports[0].is(t, first, 60*time.Second, 2*time.Second, Report{Returned: true})
		reports[1].is(t, second, 0, time.Second, Report{Kind: LostRows, First: true, Reclaimed: true})
	})
}

// A lease that the pool no longer lists, and whose holder is gone, was returned like any other.
func TestLeaseGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		one(t, p.after(60*time.Second))
		l.release(checkout)
		p.mu.Lock()
		p.leases = nil
		p.mu.Unlock()
		one(t, p.after(time.Second)).is(t, checkout, time.Minute, 2*time.Second, Report{Returned: true})
		if len(p.janitor.watches) != 0 {
			t.Error("the janitor still refers to the lease")
		}
	})
}

func TestRunningIsNoLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, time.Minute)
		l := p.lease()
		checkout := l.checkout(nil)
		l.begin(checkout, "REINDEX")
		for _, held := range []time.Duration{60 * time.Second, 120 * time.Second, 240 * time.Second} {
			none(t, p.after(time.Duration(int64(held)-(p.now()-l.hold.Since)-1)))
			r := one(t, p.after(time.Second))
			r.is(t, checkout, held, time.Second, Report{StillRunning: true})
		}
		time.Sleep(100*time.Second + time.Millisecond)
		l.end(checkout)
		l.release(checkout)
		none(t, p.after(time.Hour))
		p.counts(t, 0, 0, 0, 0)
		if len(l.marked) != 0 {
			t.Error("a running operation was marked as a leak")
		}
	})
}

// One that has just begun on an old checkout is not reported as slow.
func TestJustBegunIsNotStillRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		checkout := l.checkout(nil)
		time.Sleep(59*time.Second + 500*time.Millisecond)
		l.begin(checkout, "q")
		none(t, p.after(600*time.Millisecond))
		one(t, p.after(time.Second)).is(t, checkout, 61*time.Second, 0, Report{StillRunning: true})
	})
}

// After a slow operation the holder has the time of a look to go on. If it does not, it is a leak like any other.
func TestHeldAfterSlowOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		for range 50 {
			checkout := l.checkout(nil)
			l.begin(checkout, "slow")
			time.Sleep(2*time.Minute + rand.N(time.Second))
			l.end(checkout)
			time.Sleep(900 * time.Millisecond)
			l.release(checkout)
		}
		for _, r := range p.take() {
			if !r.StillRunning {
				t.Errorf("unexpected report %+v", r)
			}
		}
		p.counts(t, 0, 0, 0, 0)

		checkout := l.checkout(nil)
		l.begin(checkout, "slow")
		p.after(90 * time.Second)
		l.end(checkout)
		one(t, p.after(2*time.Second)).is(t, checkout, 90*time.Second, 2*time.Second, Report{First: true})
		p.counts(t, 1, 0, 0, 0)
	})
}

func TestReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 2*time.Minute)
		l := p.lease()
		checkout := l.checkout(func(h *Hold) { h.InTx = true })
		l.run(checkout, "UPDATE")
		one(t, p.after(time.Minute)).is(t, checkout, time.Minute, time.Second, Report{First: true})
		none(t, p.after(59*time.Second+999*time.Millisecond))
		one(t, p.after(time.Second)).is(t, checkout, 2*time.Minute, time.Second, Report{Reclaimed: true})
		p.counts(t, 1, 0, 0, 1)
		none(t, p.after(time.Hour))
		if asked := l.askings(); len(asked) != 1 || !asked[0].took || asked[0].operations != 1 {
			t.Errorf("Reclaim was asked for: %+v", asked)
		}
	})
}

func TestReclaimCountsFromLastUse(t *testing.T) {
	for name, use := range map[string]func(*fakeLease, uint64) bool{
		"Operation": func(l *fakeLease, c uint64) bool { return l.run(c, "q") },
		"Fetch":     (*fakeLease).touch,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, time.Minute, 2*time.Minute)
				l := p.lease()
				checkout := l.checkout(nil)
				for range 20 {
					time.Sleep(119 * time.Second)
					if !use(l, checkout) {
						t.Fatal("taken from a holder who uses it")
					}
				}
				for _, r := range p.take() {
					if r.Reclaimed {
						t.Errorf("taken back: %+v", r)
					}
				}
				last := time.Now()
				for p.take(); len(l.askings()) == 0; p.after(time.Second) {
				}
				if quiet := time.Since(last); quiet < 2*time.Minute || quiet > 122*time.Second {
					t.Errorf("taken back %v after the last use", quiet)
				}
			})
		})
	}
}

func TestReclaimNeverCutsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, time.Minute)
		l := p.lease()
		checkout := l.checkout(nil)
		one(t, p.after(time.Minute)).is(t, checkout, time.Minute, 0, Report{First: true})
		l.begin(checkout, "slow")
		p.after(time.Hour)
		if asked := l.askings(); len(asked) != 0 {
			t.Fatalf("Reclaim of what runs: %+v", asked)
		}
		l.end(checkout)
		p.after(59 * time.Second)
		if len(l.askings()) != 0 {
			t.Fatal("the time counts from the end of what ran")
		}
		p.after(2 * time.Second)
		if asked := l.askings(); len(asked) != 1 || !asked[0].took {
			t.Errorf("Reclaim was asked for: %+v", asked)
		}
	})
}

func TestNeverReclaimed(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		raw   bool
	}{"NoReclaimAfter": {}, "Raw": {after: time.Minute, raw: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, time.Minute, test.after)
				l := p.lease()
				l.checkout(func(h *Hold) { h.Raw = test.raw })
				if n := len(p.after(3 * time.Hour)); n != 8 { // 1, 2, 4, …, 128 minutes
					t.Errorf("%d reports, want 8", n)
				}
				if asked := l.askings(); len(asked) != 0 {
					t.Errorf("Reclaim was asked for: %+v", asked)
				}
			})
		})
	}
}

// A lease that declines is reported on, not lost from view.
func TestReclaimDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, time.Minute)
		l := &declining{fakeLease: fakeLease{pool: p}}
		p.janitor.cfg.Leases = func(yield func(Lease) bool) { yield(l) }
		p.janitor.cfg.Waiting = func() (bool, bool, bool) { return false, false, true }
		l.checkout(nil)
		if reports := p.after(9 * time.Minute); len(reports) != 4 { // 1, 2, 4, 8 minutes
			t.Errorf("%d reports, want 4: %+v", len(reports), reports)
		}
		p.counts(t, 1, 0, 0, 0)
	})
}

type declining struct{ fakeLease }

func (*declining) Reclaim(uint64, int) bool { return false }

// While nothing is leased no timer is armed, whoever waits: virtual time passes in one step.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		rests := func(why string) {
			t.Helper()
			before := p.readings.Load()
			none(t, p.after(10000*time.Hour))
			if n := p.readings.Load() - before; n != 0 {
				t.Errorf("%s: %d readings of a pool in which nothing is leased", why, n)
			}
		}
		rests("at the start")
		p.setWaiting(1, true)
		rests("somebody waits")
		p.setWaiting(2, true)
		p.setWaiting(0, false)
		l := p.lease()
		for range 3 {
			checkout := l.checkout(nil)
			p.after(10 * time.Second)
			l.release(checkout)
			p.after(2 * time.Second)
			rests("after a checkout in time")
			checkout = l.checkout(nil)
			one(t, p.after(60*time.Second)).is(t, checkout, time.Minute, 0, Report{First: true})
			l.release(checkout)
			one(t, p.after(time.Second))
			p.after(time.Second)
			rests("after a leak")
		}
	})
}

// Short checkouts one after another wake the janitor once per tick at most, not each time.
func TestShortCheckoutsRarelyWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		const length = 100 * time.Second
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(time.Millisecond) {
			l.release(l.checkout(nil))
			synctest.Wait()
		}
		// Two looks per tick: one when it is woken, one for the scan, with two readings each at most.
		if n := p.readings.Load(); n > 4*int64(length/time.Second)+4 {
			t.Errorf("%d readings in %v", n, length)
		}
	})
}

// A checkout begins while the janitor is about to rest, which does not see it yet.
func TestWakeAtTheVeryMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l, next := p.lease(), p.lease()
		began := make(chan uint64, 1)
		short := l.checkout(nil)
		synctest.Wait()
		l.release(short)
		p.onceRead(func(_, leased bool) bool { return !leased }, func() { began <- next.checkout(nil) })
		checkout := <-began
		one(t, p.after(60*time.Second)).is(t, checkout, time.Minute, time.Second, Report{First: true})
	})
}

// Somebody begins to wait while the janitor still believes that somebody else does.
func TestAlertAtTheVeryMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		l.run(l.checkout(nil), "q")
		ticket := l.ticket(true, true)
		synctest.Wait()
		p.setWaiting(1, true)
		synctest.Wait()
		p.setWaiting(0, false)
		began := make(chan struct{})
		p.onceRead(func(waiting, _ bool) bool { return !waiting }, func() {
			p.setWaiting(1, true)
			ticket.Lost()
			close(began)
		})
		<-began
		one(t, p.after(25*time.Millisecond)) // not at the next tick
	})
}

func TestTellPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		p.told = func(Report) { panic("out of paper") }
		p.onPanic = func(any) { panic("no more paper either") }
		a, b := p.lease(), p.lease()
		a.checkout(nil)
		b.checkout(nil)
		if n := len(p.after(121 * time.Second)); n != 4 {
			t.Errorf("%d reports, want two of each", n)
		}
		if got := fmt.Sprint(p.panics); got != "["+strings.TrimSpace(strings.Repeat("out of paper ", 4))+"]" {
			t.Errorf("panics handed on: %s", got)
		}
	})
}

// t.FailNow in a handler ends its goroutine. The janitor goes on with the reports that were not told yet.
func TestTellExitsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		p.told = func(Report) { runtime.Goexit() }
		a, b := p.lease(), p.lease()
		ca, cb := a.checkout(nil), b.checkout(nil)
		if n := len(p.after(121 * time.Second)); n != 4 {
			t.Errorf("%d reports, want two of each", n)
		}
		a.release(ca)
		b.release(cb)
		if n := len(p.after(2 * time.Second)); n != 2 {
			t.Errorf("%d reports of returns, want 2", n)
		}
	})
}

// A handler may use the pool, and may take its time.
func TestTellUsesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, time.Minute, 0)
		l := p.lease()
		next := p.lease()
		p.told = func(r Report) {
			if r.First {
				l.release(r.Checkout)
				next.release(next.checkout(nil))
				p.setWaiting(1, true)
				p.setWaiting(0, true)
				time.Sleep(10 * time.Second)
			}
		}
		checkout := l.checkout(nil)
		one(t, p.after(60*time.Second)).is(t, checkout, time.Minute, 0, Report{First: true})
		one(t, p.after(11*time.Second)).is(t, checkout, 70*time.Second, time.Second, Report{Returned: true})
	})
}

func TestNoThreshold(t *testing.T) {
	j := New(Config{})
	if j != nil {
		t.Fatal("a janitor without a threshold")
	}
	j.Wake()
	j.Alert()
	if a, b, c, d := j.Counts(); a+b+c+d != 0 {
		t.Error("a nil janitor has counted")
	}
	ticket := j.NewTicket()
	ticket.Fill(nil, 1, 1, true)
	ticket.Empty()
	ticket.Lost()
}
