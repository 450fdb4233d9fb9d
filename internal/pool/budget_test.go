package pool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pool"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

const (
	bankTokens = 5 // there are never more
	bankLimit  = 7 // the pool's own
)

var (
	errNoSession = errors.New("there is no session")
	errPermanent = errors.New("wrong password")
)

// bank is a budget that grants tokens and wants them back as it likes.
type bank struct {
	*testing.T
	epoch  time.Time
	budget *pool.Budget[*deposit]
	more   chan struct{} // a token has come free; has room for one
	calm   atomic.Bool   // nothing fails

	mu    sync.Mutex // guards the rest; after the pool's
	rnd   *rand.Rand
	most  int // tokens that the pool may have
	given map[int]*deposit
	last  int

	opened, yielded int
}

// deposit is what the pool opens with a token; nil while it is not open.
type deposit struct{ token int }

// now is the pool clock.
func (b *bank) now() int64 { return int64(time.Since(b.epoch)) }

func (b *bank) chance(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.calm.Load() && b.rnd.IntN(n) == 0
}

func (b *bank) take(missing int) (int, bool) {
	if missing < 1 || missing > bankLimit {
		b.Errorf("%d are missing", missing)
	}
	if b.chance(300) {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.given) >= b.most {
		return 0, false
	}
	b.last++
	b.given[b.last] = nil
	return b.last, true
}

func (b *bank) giveBack(token int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if token == 0 {
		return
	}
	if a, ok := b.given[token]; !ok || a != nil {
		b.Errorf("token %d comes back (given: %t, open: %t)", token, ok, a != nil)
	}
	delete(b.given, token)
	select {
	case b.more <- struct{}{}:
	default:
	}
}

func (b *bank) open(ctx context.Context, token int) (*deposit, error) {
	if token == 0 {
		return nil, errNoSession
	}
	if b.chance(3) {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case b.chance(400):
		return nil, errNoSession
	case b.chance(400):
		return nil, errPermanent
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, ok := b.given[token]; !ok || a != nil {
		b.Errorf("token %d is used (given: %t, open: %t)", token, ok, a != nil)
	}
	a := &deposit{token}
	b.given[token] = a
	b.opened++
	return a, nil
}

func (b *bank) close(a *deposit) error {
	if b.chance(5) {
		time.Sleep(200 * time.Microsecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given[a.token] != a {
		b.Errorf("the connection of token %d closes twice", a.token)
	}
	b.given[a.token] = nil
	return nil
}

// set changes how many tokens the pool may have, and says how many it has to give up.
func (b *bank) set(most int) (owed int, tokens []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most = most
	for token := range b.given {
		tokens = append(tokens, token)
	}
	b.yielded += max(len(tokens)-most, 0)
	return max(len(tokens)-most, 0), tokens
}

// deal grants tokens and wants them back at random until stop is closed. Then all are granted.
func (b *bank) deal(rnd *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-b.more:
			b.budget.Dial()
			continue
		case <-time.After(time.Duration(rnd.IntN(2000)) * time.Microsecond):
		case <-stop:
			b.set(bankTokens)
			b.budget.Yield(0, 0, 0, 0, nil)
			b.budget.Dial()
			return
		}
		owed, tokens := b.set(rnd.IntN(bankTokens + 1))
		var doomed []int
		if len(tokens) > 0 && rnd.IntN(10) == 0 {
			doomed = tokens[:1]
		}
		rest := time.Duration(rnd.IntN(2)) * time.Millisecond
		b.budget.Yield(owed, rnd.IntN(3), rest, time.Duration(rnd.IntN(2))*time.Millisecond, doomed)
		b.budget.Dial()
	}
}

// restingLease can lie idle in its handle.
type restingLease struct {
	mu    sync.Mutex
	idle  bool
	since int64
}

func (l *restingLease) Idle() (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since, l.idle
}

func (l *restingLease) TakeIdle() (since int64, was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = l.idle
	l.idle = false
	return l.since, was
}

func (l *restingLease) take() bool {
	_, ok := l.TakeIdle()
	return ok
}

func (l *restingLease) rest(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle, l.since = true, now
}

// customer is a caller with a handle in which one lease may lie.
type customer struct {
	*bank
	pool    *pool.Pool[*deposit]
	client  *pool.Client[*deposit]
	rnd     *rand.Rand
	patient bool
	lease   *restingLease
	slot    *pool.Slot[*deposit] // of the lease, if it lies idle
}

// call uses a connection once, and says whether the pool is still there.
func (c *customer) call() bool {
	p := c.pool
	s := c.slot
	if s == nil || !c.lease.take() { // the pool may have taken it
		ctx, cancel := context.Background(), func() {}
		if c.rnd.IntN(4) == 0 {
			ctx, cancel = pooltest.CancelSoon(ctx, c.rnd, 3*time.Millisecond)
		}
		defer cancel()
		c.lease = &restingLease{}
		var err error
		s, err = c.client.Acquire(ctx, c.lease, &pool.Turn{})
		c.slot = nil
		var timeout *pool.TimeoutError
		switch {
		case err == nil:
		case errors.Is(err, pool.ErrClosed):
			return false
		case c.patient && errors.As(err, &timeout) && timeout.Context == nil:
			c.Errorf("a waiter was lost: %v", err)
			return true
		default:
			return true
		}
	}
	c.slot = nil
	if c.rnd.IntN(2) == 0 {
		time.Sleep(time.Duration(c.rnd.IntN(500)) * time.Microsecond)
	}
	switch c.rnd.IntN(40) {
	case 0:
		s.Broke(false)
		s.Discard()
	case 1:
		s.Spoil()
		s.Release(1, 0)
	case 2:
		s.Discard()
	case 3, 4, 5, 6, 7, 8, 9, 10, 11, 12:
		c.slot = s
		c.lease.rest(c.now())
		if (p.Wanted() || c.client.Refuses() || !s.Fit(c.now())) && c.lease.take() {
			c.slot = nil
			s.Release(1, 0)
		}
	default:
		s.Release(1, 0)
	}
	return true
}

// TestBudget has tokens granted and taken back at random while callers use, lose and break what is opened with them, and run
// out of time. Never is more open than there are tokens. No token is lost, and with a patient pool no wait is in vain.
//
//	LIFEGUARD_TEST_SEED=n go test -race -run TestBudget ./internal/pool
func TestBudget(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"Patient": time.Minute, "Hasty": 2 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			rnd := pooltest.Seed(t)
			b := &bank{T: t, epoch: time.Now().Add(-time.Second), rnd: rand.New(rand.NewPCG(rnd.Uint64(), 1)), given: map[int]*deposit{}, most: bankTokens, more: make(chan struct{}, 1)}
			b.budget = &pool.Budget[*deposit]{Take: b.take, Return: b.giveBack, Open: b.open}
			p := pool.New(pool.Config[*deposit]{
				Limit: bankLimit, MaxIdle: bankLimit, MinOpen: 1, Timeout: timeout, Now: b.now,
				MaxLifetime: 50 * time.Millisecond, MaxIdleTime: 10 * time.Millisecond, Keepalive: 5 * time.Millisecond,
				Close: b.close, Retryable: func(err error) bool { return errors.Is(err, errNoSession) }, Resize: func(int) {},
				Ping: func(context.Context, *deposit) error {
					if b.chance(50) {
						return errNoSession
					}
					return nil
				},
				Budget: b.budget,
			})
			client := p.Join()
			b.storm(p, client, rnd, timeout > time.Second, nil)

			b.calm.Store(true)
			var all []*pool.Slot[*deposit]
			for began := time.Now(); len(all) < bankTokens; {
				require.Less(t, time.Since(began), 20*time.Second, "a token was lost: %+v", p.Stats())
				s, err := client.Acquire(t.Context(), &restingLease{}, &pool.Turn{})
				if timeout > time.Second {
					require.NoError(t, err, "a token was lost: %+v", p.Stats())
				}
				if err == nil {
					all = append(all, s)
				}
			}
			for _, s := range all {
				s.Release(1, 0)
			}
			b.calm.Store(false)
			b.storm(p, client, rnd, timeout > time.Second, func() {
				<-client.Drain()
				last, err := client.Leave()
				assert.True(t, last)
				assert.NoError(t, err)
			})
			pooltest.Eventually(t, "all tokens are back", func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				return len(b.given) == 0
			})
			t.Logf("%d opened, %d to be given up, %+v", b.opened, b.yielded, p.Stats())
			assert.Positive(t, b.yielded)
		})
	}
}

// storm has callers use the pool for a second, with meddle in the middle.
func (b *bank) storm(p *pool.Pool[*deposit], client *pool.Client[*deposit], rnd *rand.Rand, patient bool, meddle func()) {
	stop := make(chan struct{})
	var callers, dealer sync.WaitGroup
	seed := rand.New(rand.NewPCG(rnd.Uint64(), 2))
	dealer.Go(func() { b.deal(seed, stop) })
	end := time.Now().Add(pooltest.StormLength(time.Second))
	for range 16 {
		c := &customer{bank: b, pool: p, client: client, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 3)), patient: patient}
		callers.Go(func() {
			for time.Now().Before(end) && c.call() {
			}
			if c.slot != nil && c.lease.take() {
				c.slot.Release(1, 0)
			}
		})
	}
	if meddle != nil {
		callers.Go(func() { time.Sleep(pooltest.StormLength(500 * time.Millisecond)); meddle() })
	}
	callers.Wait()
	close(stop)
	dealer.Wait()
}
