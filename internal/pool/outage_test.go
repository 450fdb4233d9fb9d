package pool_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// After an outage callers get its error at once, and nobody waits. Only a dial can show that the server is back, so the
// token for it is as urgent as one for a caller.
func TestTokenToEndAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		var unreachable, none atomic.Bool // the server, and a token
		epoch := time.Now().Add(-time.Second)
		b := &pool.Budget[*deposit]{
			Take:   func(int) (int, bool) { return 1, !none.Load() },
			Return: func(int) {},
			Open: func(context.Context, int) (*deposit, error) {
				if unreachable.Load() {
					return nil, refused
				}
				return &deposit{}, nil
			},
		}
		p := pool.New(pool.Config[*deposit]{
			Limit: 2, MaxIdle: 2, Timeout: time.Minute, Now: func() int64 { return int64(time.Since(epoch)) },
			Close: func(*deposit) error { return nil }, Retryable: func(err error) bool { return errors.Is(err, refused) },
			Resize: func(int) {}, Budget: b,
		})
		client := p.Join()
		acquire := func() error {
			s, err := client.Acquire(t.Context(), &restingLease{}, &pool.Turn{})
			if err == nil {
				s.Discard()
			}
			return err
		}
		require.NoError(t, acquire())

		unreachable.Store(true)
		began := time.Now()
		require.ErrorIs(t, acquire(), refused)
		assert.Equal(t, 20*time.Second, time.Since(began).Round(time.Second))
		none.Store(true) // the rest of the fleet has them all by now
		time.Sleep(time.Second)
		require.ErrorIs(t, acquire(), refused)
		missing, urgent := b.Dial()
		assert.Equal(t, 1, missing)
		assert.True(t, urgent)

		unreachable.Store(false)
		none.Store(false)
		b.Dial()
		synctest.Wait()
		require.NoError(t, acquire())
		_, urgent = b.Dial()
		assert.False(t, urgent, "it is over")
		_, err := client.Leave()
		require.NoError(t, err)
	})
}
