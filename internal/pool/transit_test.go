package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// A lease that has just come back is left to its own handle for a millisecond: what database/sql hands to a caller must not be
// taken from it. It does not lie there beside a waiter for longer, and another handle's caller gets it at once.
func TestLeaseInTransit(t *testing.T) {
	for name, test := range map[string]struct {
		other bool
		rests time.Duration // before the caller comes
		waits time.Duration
	}{
		"own handle":                    {false, 0, time.Millisecond},
		"own handle, a moment ago":      {false, 300 * time.Microsecond, 700 * time.Microsecond},
		"own handle, lying there":       {false, time.Second, 0},
		"another handle":                {true, 0, 0},
		"another handle, a moment ago":  {true, 300 * time.Microsecond, 0},
		"own handle, a millisecond ago": {false, time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				epoch := time.Now().Add(-time.Second)
				now := func() int64 { return int64(time.Since(epoch)) }
				p := pool.New(pool.Config[int]{
					Limit: 2, MaxIdle: 2, Timeout: time.Minute, Now: now, Open: func(context.Context) (int, error) { return 1, nil },
					Close: func(int) error { return nil }, Retryable: func(error) bool { return true }, Resize: func(int) {},
				})
				own := p.Join()
				caller := own
				if test.other {
					caller = p.Join()
				}
				lease := &restingLease{}
				_, err := own.Acquire(t.Context(), lease, &pool.Turn{})
				require.NoError(t, err)
				lease.rest(now())
				time.Sleep(test.rests)
				began := time.Now()
				s, err := caller.Acquire(t.Context(), &restingLease{}, &pool.Turn{})
				require.NoError(t, err)
				assert.Equal(t, test.waits, time.Since(began))
				assert.EqualValues(t, 1, p.Stats().Opened, "no dial for what comes in a moment")
				s.Discard()
				for _, c := range []*pool.Client[int]{own, caller} {
					_, err := c.Leave()
					assert.NoError(t, err)
				}
			})
		})
	}
}
