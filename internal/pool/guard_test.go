package pool

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/session"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// heldLease is a lease whose holder never lets it lie idle.
type heldLease struct{}

func (heldLease) Idle() (int64, bool)     { return 0, false }
func (heldLease) TakeIdle() (int64, bool) { return 0, false }

// Whatever mistake the pool makes in its count, the inner *sql.DB behind Open holds the limit. What the pool asks for in
// excess waits there until a connection is closed, and gets a new one.
func TestGuardHoldsTheLimit(t *testing.T) {
	const limit = 3
	for name, mistake := range map[string]func(*Pool[*session.Session]){
		"one more than the limit":   func(p *Pool[*session.Session]) { p.limit = limit + 1 },
		"no limit":                  func(p *Pool[*session.Session]) { p.limit = 1000 },
		"open ones are not counted": func(p *Pool[*session.Session]) { p.open = -1000 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := fakedriver.New()
				epoch := time.Now().Add(-time.Second)
				now := func() int64 { return int64(time.Since(epoch)) }
				opener := session.NewOpener(session.Config{
					Parent: srv.Connector(), Log: slog.New(slog.DiscardHandler), Statements: stmtcache.NewShared(stmtcache.Config{Now: now}),
				}, limit)
				p := New(Config[*session.Session]{
					Limit: limit, MaxIdle: limit, Timeout: time.Second, Now: now,
					Open: opener.Open, Close: opener.CloseSession, Retryable: func(error) bool { return true }, Resize: opener.Resize,
				})
				c := p.Join()
				acquire := func() (*Slot[*session.Session], error) {
					return c.Acquire(context.Background(), heldLease{}, &Turn{})
				}
				var held []*Slot[*session.Session]
				for range limit {
					s, err := acquire()
					require.NoError(t, err)
					held = append(held, s)
				}
				p.mu.Lock()
				mistake(p)
				p.mu.Unlock()

				dials := srv.Dials()
				for range 2 {
					_, err := acquire()
					var timeout *TimeoutError
					require.ErrorAs(t, err, &timeout)
				}
				p.mu.Lock()
				assert.NotEmpty(t, p.dialling.inFlight, "the pool asked for more")
				p.mu.Unlock()
				assert.Equal(t, dials, srv.Dials(), "and the server was not asked")

				// One that waits in the inner *sql.DB is never handed a connection that is being closed.
				first := held[0].Resource
				held[0].Discard()
				synctest.Wait()
				assert.Equal(t, dials+1, srv.Dials())
				s, err := acquire()
				require.NoError(t, err)
				assert.NotSame(t, first, s.Resource)
				held[0] = s
				assert.Equal(t, limit, srv.Open())
				assert.Equal(t, limit, srv.MaxOpen())

				for _, s := range held {
					s.Release(1, 0)
				}
				c.Leave()
				assert.NoError(t, opener.Close())
				synctest.Wait()
				assert.Zero(t, srv.Open())
				assert.Empty(t, srv.Violations())
			})
		})
	}
}

// returner is a lease that becomes idle as soon as the pool has looked at it, and then looks whether it is wanted, as
// leases of handles do.
type returner struct {
	pool         *Pool[int]
	idle, wanted bool
}

func (r *returner) Idle() (int64, bool) {
	was := r.idle
	r.idle, r.wanted = true, r.wanted || !was && r.pool.Wanted()
	return 1, was
}

func (r *returner) TakeIdle() (int64, bool) {
	was := r.idle
	r.idle = false
	return 1, was
}

// Whoever wants connections back says so before looking for idle ones: one that becomes idle after that look sees it.
func TestWantsBeforeItLooks(t *testing.T) {
	for name, want := range map[string]func(*Pool[int]){
		"SetLimit": func(p *Pool[int]) { p.SetLimit(1, 1) },
		"Yield":    func(p *Pool[int]) { p.cfg.Budget.Yield(1, 0, 0, 0, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			epoch := time.Now().Add(-time.Second)
			p := New(Config[int]{
				Limit: 2, MaxIdle: 2, Now: func() int64 { return int64(time.Since(epoch)) }, Open: func(context.Context) (int, error) { return 1, nil },
				Close: func(int) error { return nil }, Retryable: func(error) bool { return true }, Resize: func(int) {},
			})
			client := p.Join()
			r := &returner{pool: p}
			for _, lease := range []Lease{r, heldLease{}} {
				_, err := client.Acquire(t.Context(), lease, &Turn{})
				require.NoError(t, err)
			}
			want(p)
			assert.True(t, r.wanted || !r.idle, "it lies idle, and was not told that it is wanted")
		})
	}
}
