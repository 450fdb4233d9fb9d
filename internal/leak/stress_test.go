package leak

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// holders is a pool whose leases are used at random, with what is known about each checkout.
type holders struct {
	*fakePool
	t *testing.T

	mu       sync.Mutex
	known    map[uint64]*past // guarded by mu
	panicked int              // guarded by mu
}

// past is all that happened to one checkout.
type past struct {
	lost     map[int]bool // operation whose result was lost, and whether only that had the connection
	returned bool
	ran      bool // it had a slow operation
	reported bool // as a leak
	final    bool
}

// About the seed: LIFEGUARD_TEST_SEED=n go test -race -run TestStress ./internal/leak
func stressSeed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("LIFEGUARD_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LIFEGUARD_TEST_SEED=%d", seed)
	return seed
}

// Leases are used, forgotten, returned, lost and taken back at random, at moments at which the janitor looks, too.
func TestStress(t *testing.T) {
	seed := stressSeed(t)
	length := time.Minute
	if testing.Short() {
		length = 20 * time.Second
	}
	synctest.Test(t, func(t *testing.T) {
		const threshold, after = 50 * time.Millisecond, 120 * time.Millisecond // looks are 5 ms apart
		h := &holders{fakePool: newPool(t, threshold, after), t: t, known: map[uint64]*past{}}
		h.told = h.check
		end := time.Now().Add(length)
		var wg sync.WaitGroup
		for g := range 12 {
			l := h.lease()
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(g)))
				for time.Now().Before(end) {
					h.useLease(l, rnd)
					time.Sleep(moment(rnd, 10*time.Millisecond))
				}
			})
		}
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1000))
			for time.Now().Before(end) {
				h.setWaiting(rnd.IntN(3), rnd.IntN(2) == 0)
				time.Sleep(moment(rnd, 200*time.Millisecond))
			}
		})
		wg.Wait()
		h.setWaiting(0, false)
		h.after(time.Second)
		h.checkEnd()
	})
}

// moment is a random time; every other one falls on a moment at which the janitor may look.
func moment(rnd *rand.Rand, most time.Duration) time.Duration {
	d := time.Duration(rnd.Int64N(int64(most)))
	if rnd.IntN(2) == 0 {
		d = d.Round(time.Millisecond)
	}
	return d
}

// useLease is one checkout from its begin to its end.
func (h *holders) useLease(l *fakeLease, rnd *rand.Rand) {
	checkout := l.checkout(func(hold *Hold) {
		hold.Raw, hold.InTx, hold.Endless = rnd.IntN(10) == 0, rnd.IntN(5) == 0, rnd.IntN(2) == 0
		h.mu.Lock()
		h.known[hold.Checkout] = &past{lost: map[int]bool{}}
		h.mu.Unlock()
	})
	for range rnd.IntN(5) {
		longest := 10 * time.Millisecond
		if rnd.IntN(5) == 0 {
			longest = 400 * time.Millisecond
		}
		switch rnd.IntN(4) {
		case 0:
			l.touch(checkout)
		case 1, 2:
			if !l.begin(checkout, "q") {
				return // taken back
			}
			h.knowing(checkout, func(p *past) { p.ran = true })
			time.Sleep(moment(rnd, longest))
			if !l.end(checkout) {
				h.t.Errorf("checkout %d was taken while it ran", checkout)
			}
		case 3:
			if h.lose(l, checkout, rnd) {
				time.Sleep(2 * time.Second) // nobody is left who could return it
			}
		}
		time.Sleep(moment(rnd, longest))
	}
	// The order is that of the pool: what is noted as returned may be taken back no more.
	if l.change(checkout, func(*Hold) {
		l.held = false
		h.knowing(checkout, func(p *past) { p.returned = true })
	}) {
		return
	}
	h.knowing(checkout, func(p *past) {
		if !p.final && len(p.lost) == 0 && !p.reported {
			h.t.Errorf("checkout %d was taken back without a reason", checkout)
		}
	})
}

// lose drops the result of the last operation, and says whether that alone had the connection.
func (h *holders) lose(l *fakeLease, checkout uint64, rnd *rand.Rand) bool {
	hold, held := l.Hold()
	if !held || hold.Checkout != checkout || hold.Operations == 0 {
		return false
	}
	alone, fromDB := rnd.IntN(2) == 0, checkout%2 == 0
	certain := alone && fromDB && !hold.InTx && !hold.Raw
	h.knowing(checkout, func(p *past) { p.lost[hold.Operations] = p.lost[hold.Operations] || certain })
	l.ticket(alone, fromDB).Lost()
	return certain && rnd.IntN(2) == 0
}

func (h *holders) knowing(checkout uint64, f func(*past)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.known[checkout])
}

// check is the handler: each report fits what happened, and it panics now and then.
func (h *holders) check(r Report) {
	var now int
	h.knowing(r.Checkout, func(p *past) {
		switch {
		case r.StillRunning:
			if !p.ran || r.First || r.Again || r.Returned || r.Reclaimed {
				h.t.Errorf("still running: %+v", r)
			}
			return
		case p.final:
			h.t.Errorf("a report after the last: %+v", r)
		case r.First == p.reported:
			h.t.Errorf("First is %v in %+v", r.First, r)
		case r.Returned && !p.returned:
			h.t.Errorf("returned, and still held: %+v", r)
		case r.Returned && !p.reported:
			h.t.Errorf("returned, and never reported: %+v", r)
		case r.Reclaimed && p.returned:
			h.t.Errorf("taken back, and returned before: %+v", r)
		case r.Kind == LostRows && len(p.lost) == 0:
			h.t.Errorf("no result of it was lost: %+v", r)
		case r.Kind == Held && r.First && r.Held < h.janitor.cfg.Threshold:
			h.t.Errorf("reported before its time: %+v", r)
		}
		p.reported = true
		p.final = p.final || r.Returned || r.Reclaimed
	})
	h.mu.Lock()
	h.panicked++
	now = h.panicked
	h.mu.Unlock()
	switch now % 20 {
	case 7:
		panic("out of paper")
	case 14:
		runtime.Goexit()
	}
}

// checkEnd looks at the whole, after every holder has returned its connection and the janitor has seen it.
func (h *holders) checkEnd() {
	leaks, lostRows, lostLater, reclaimed := h.janitor.Counts()
	var reported, taken uint64
	for checkout, p := range h.known {
		if p.reported {
			reported++
			if !p.final {
				h.t.Errorf("checkout %d was reported, and neither returned nor taken back", checkout)
			}
		}
	}
	for _, l := range h.leases {
		for _, a := range l.askings() {
			if a.took {
				taken++
			}
			h.checkReclaim(&a)
		}
	}
	if leaks+lostRows-lostLater != reported || reclaimed != taken {
		h.t.Errorf("counted %d leaks, %d lost, %d later, %d taken back; want %d reported and %d taken back",
			leaks, lostRows, lostLater, reclaimed, reported, taken)
	}
	if leaks == 0 || lostRows == 0 || lostLater == 0 || reclaimed == 0 || len(h.panics) == 0 {
		h.t.Errorf("nothing was tried: %d leaks, %d lost, %d later, %d taken back, %d panics",
			leaks, lostRows, lostLater, reclaimed, len(h.panics))
	}
	h.t.Logf("%d checkouts, %d leaks, %d lost, %d later, %d taken back", len(h.known), leaks, lostRows, lostLater, reclaimed)
	if n := len(h.janitor.watches); n != 0 {
		h.t.Errorf("%d checkouts are still watched", n)
	}
	before := h.readings.Load()
	h.after(time.Hour)
	if h.readings.Load() != before {
		h.t.Error("the janitor does not rest")
	}
}

// checkReclaim decides whether a call of Reclaim was justified. What happened in the same instant is no fault.
func (h *holders) checkReclaim(a *asking) {
	p := h.known[a.checkout]
	hold := &a.hold
	switch {
	case !a.held || hold.Checkout != a.checkout: // it has just ended
		if a.held && hold.Since < a.at {
			h.t.Errorf("Reclaim of a checkout that was over: %+v", *a)
		}
	case p.lost[a.operations]: // of the result that had the connection alone; the lease knows whether anything came later
	case hold.Running && hold.Began < a.at:
		h.t.Errorf("Reclaim of a running operation: %+v", *a)
	case hold.Raw || !hold.Leaked:
		h.t.Errorf("Reclaim of what is no leak, or cannot be seen: %+v", *a)
	case max(hold.Began, hold.Touched) < a.at && hold.quiet(a.at) < int64(h.janitor.cfg.ReclaimAfter):
		h.t.Errorf("Reclaim %v after the last use: %+v", time.Duration(hold.quiet(a.at)), *a)
	}
}
