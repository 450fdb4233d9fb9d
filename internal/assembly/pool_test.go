package assembly_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/assembly"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/leak"
	"github.com/go-lifeguard/lifeguard/internal/look"
	"github.com/go-lifeguard/lifeguard/internal/observe"
	"github.com/go-lifeguard/lifeguard/internal/pool"
)

// house is an assembled pool with what stands around it in the root package.
type house struct {
	*assembly.Pool
	server  *fakedriver.Server
	driver  driver.Driver
	mu      sync.Mutex
	log     bytes.Buffer  // guarded by mu
	reports []leak.Report // guarded by mu
}

// build assembles a pool in a bubble. Without its Config's functions the pool would know no text of an error.
func build(change func(*assembly.Config)) *house {
	h := &house{server: fakedriver.New()}
	h.driver = h.server.Driver()
	epoch := time.Now().Add(-time.Second)
	log := slog.New(slog.NewTextHandler(h, nil))
	cfg := assembly.Config{
		Name: "orders", Target: "db:5432/shop", Limit: 1, MaxIdle: 1, PoolTimeout: 2 * time.Second, LeakThreshold: time.Minute,
		Parent: h.server.Connector(), Log: log, Observe: observe.Config{Logger: log},
		Now:    func() int64 { return int64(time.Since(epoch)) },
		Redact: func(err error) error { return errors.New(strings.ReplaceAll(err.Error(), "hunter2", "***")) },
		Timeout: func(e *pool.TimeoutError, holds []leak.Hold) error {
			return fmt.Errorf("waited %s for %d, dial: %v", e.Waited, len(holds), e.Dial)
		},
		Leaked: func(r leak.Report) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.reports = append(h.reports, r)
		},
	}
	change(&cfg)
	h.Pool = assembly.NewPool(cfg)
	return h
}

func (h *house) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

// logged gives the lines that have a text.
func (h *house) logged(text string) (lines []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for line := range strings.Lines(h.log.String()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (h *house) open(t *testing.T) *sql.DB {
	t.Helper()
	c := h.Join(h.driver)
	require.NotNil(t, c)
	return c.Handle()
}

// Dials that fail are logged at doubling intervals, and so is that connecting works again; the page gets every one. A
// secret is in none of them, nor in the error of the wait.
func TestDialsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(func(c *assembly.Config) { c.PoolTimeout = time.Minute })
		db := h.open(t)
		defer db.Close()
		require.NoError(t, db.PingContext(t.Context())) // a pool that has never connected gives up at once
		h.Reset()
		began := time.Now()
		h.server.OnDial(func(context.Context) error {
			if time.Since(began) < 10*time.Second {
				return fmt.Errorf("hunter2 is down: %w", syscall.ECONNREFUSED)
			}
			return nil
		})
		require.NoError(t, db.PingContext(t.Context()))
		synctest.Wait()
		failed := h.logged("cannot open a connection")
		assert.Len(t, failed, 5, "at once, and after 1, 2, 4 and 8 s")
		assert.NotContains(t, failed[0], "since=")
		assert.Regexp(t, `since=[89]`, failed[len(failed)-1])
		again := h.logged("connecting works again")
		require.Len(t, again, 1)
		assert.Contains(t, again[0], "after=10")
		events := h.Look().Picture().Events
		require.Len(t, events, 3)
		assert.Equal(t, look.WasReset, events[2].Kind)
		assert.Equal(t, look.Recovered, events[0].Kind)
		assert.Equal(t, look.DialFailed, events[1].Kind)
		assert.Greater(t, events[1].Count, len(failed))
		assert.Contains(t, events[1].Text, "*** is down")
		assert.Empty(t, h.logged("hunter2"))
	})
}

// The error of a wait is made by Config.Timeout, from the holders; what the last dial said is redacted.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(func(*assembly.Config) {})
		db := h.open(t)
		defer db.Close()
		kept, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer kept.Close()
		require.EqualError(t, db.PingContext(t.Context()), "waited 2s for 1, dial: <nil>")
		require.Len(t, h.Holds(), 1)

		h.SetLimit(2, 2)
		h.server.OnDial(func(context.Context) error { return errors.Join(errors.New("hunter2 is down"), driver.ErrBadConn) })
		err = db.PingContext(t.Context())
		require.ErrorContains(t, err, "*** is down")
		assert.NotErrorIs(t, err, driver.ErrBadConn, "database/sql would wait twice more")
	})
}

// A leak is told to the root and to the page.
func TestLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(func(c *assembly.Config) { c.LeakThreshold = 5 * time.Second })
		db := h.open(t)
		defer db.Close()
		kept, err := db.Conn(t.Context())
		require.NoError(t, err)
		time.Sleep(7 * time.Second)
		h.mu.Lock()
		require.NotEmpty(t, h.reports)
		assert.Equal(t, leak.Held, h.reports[0].Kind)
		h.mu.Unlock()
		require.Len(t, h.Look().Picture().Leaks, 1)
		assert.EqualValues(t, 1, h.Stats().Leaks)
		require.NoError(t, kept.Close())
	})
}

// The last handle closes the pool, and what belongs to it: nothing joins it afterwards, and no goroutine is left, which
// the bubble would not end with.
func TestLastHandleClosesThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(func(*assembly.Config) {})
		first, second := h.open(t), h.open(t)
		require.NoError(t, first.PingContext(t.Context()))
		require.NoError(t, second.PingContext(t.Context()))
		require.NoError(t, h.Ready(t.Context()))
		require.NoError(t, first.Close())
		assert.False(t, h.Closed())
		require.NoError(t, second.PingContext(t.Context()))
		require.NoError(t, second.Close())
		assert.True(t, h.Closed())
		assert.True(t, h.Look().Closed())
		assert.Nil(t, h.Join(h.driver))
		assert.ErrorIs(t, h.Ready(t.Context()), pool.ErrClosed)
		synctest.Wait()
		assert.Zero(t, h.server.Open())
		assert.Empty(t, h.server.Violations())
	})
}
