package look_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/look"
)

// Every state of a slot, a waiter, and what happened, at moments that are known to the nanosecond.
func TestPicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fakedriver.New()
		block := make(chan struct{})
		server.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			<-block
			return nil
		})
		db, err := lifeguard.OpenDB(server.Connector(), lifeguard.WithConnectionLimit(4), lifeguard.WithPoolTimeout(time.Minute),
			lifeguard.WithLeakThreshold(10*time.Second))
		require.NoError(t, err)
		defer db.Close()
		at := db.Driver().(interface{ Look() *look.Pool }).Look()

		kept, err := db.Conn(t.Context()) // and forgotten
		require.NoError(t, err)
		time.Sleep(11 * time.Second)
		tx, err := db.Begin()
		require.NoError(t, err)
		time.Sleep(time.Second)
		running := make(chan error)
		go func() {
			_, err := db.ExecContext(t.Context(), "UPDATE t SET a = 'secret'")
			running <- err
		}()
		synctest.Wait()
		require.NoError(t, db.PingContext(t.Context())) // the fourth lies idle
		time.Sleep(2 * time.Second)

		pic := at.Picture()
		require.Len(t, pic.Slots, 4)
		states := map[look.State]look.Slot{}
		for i, s := range pic.Slots {
			assert.EqualValues(t, i+1, s.Serial)
			states[s.State] = s
		}
		assert.Equal(t, 14*time.Second, states[look.Leaked].For)
		assert.Equal(t, 3*time.Second, states[look.IdleInTx].For)
		assert.Equal(t, 2*time.Second, states[look.Running].For)
		assert.Equal(t, 2*time.Second, states[look.Idle].For)
		assert.Nil(t, states[look.Idle].Holder)
		assert.Equal(t, "UPDATE t SET a = ?", states[look.Running].Holder.Query)
		assert.True(t, states[look.IdleInTx].Holder.InTx)
		require.NotEmpty(t, states[look.Leaked].Holder.Stack)
		assert.Contains(t, states[look.Leaked].Holder.Stack[0].Function, "TestPicture")
		require.Len(t, pic.Leaks, 1)
		assert.False(t, pic.Leaks[0].Returned)

		fourth, err := db.Conn(t.Context())
		require.NoError(t, err)
		go func() { _ = db.PingContext(t.Context()) }()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		pic = at.Picture()
		require.Len(t, pic.Waiters, 1)
		assert.Equal(t, 5*time.Second, pic.Waiters[0].Waited)
		assert.Equal(t, 55*time.Second, pic.Waiters[0].Left)
		require.NotEmpty(t, pic.Waiters[0].Stack)
		assert.Contains(t, pic.Waiters[0].Stack[0].Function, "TestPicture")
		assert.Equal(t, look.Held, pic.Slots[3].State)

		close(block)
		require.NoError(t, <-running)
		require.NoError(t, kept.Close())
		require.NoError(t, fourth.Close())
		require.NoError(t, tx.Rollback())
		time.Sleep(2 * time.Second)
		pic = at.Picture()
		assert.Empty(t, pic.Waiters)
		require.Len(t, pic.Leaks, 1)
		for _, l := range pic.Leaks {
			assert.True(t, l.Returned)
		}
		require.NotEmpty(t, pic.Shapes)
		assert.Equal(t, "UPDATE t SET a = ?", pic.Shapes[0].Query)
		assert.EqualValues(t, 1, pic.Shapes[0].Slow)
		assert.Equal(t, 7*time.Second, pic.Shapes[0].Max)
		_, waits := at.Glance()
		assert.Positive(t, waits.Count())
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fakedriver.New()
		server.OnDial(func(context.Context) error { return errors.New("no route") })
		db, err := lifeguard.OpenDB(server.Connector())
		require.NoError(t, err)
		defer db.Close()
		at := db.Driver().(interface{ Look() *look.Pool }).Look()
		for range 3 {
			require.Error(t, db.PingContext(t.Context()))
			time.Sleep(time.Second)
		}
		server.OnDial(func(context.Context) error { return nil })
		require.NoError(t, db.PingContext(t.Context()))
		p, _ := lifeguard.PoolOf(db)
		require.NoError(t, p.SetConnectionLimit(3))
		p.Reset()
		time.Sleep(time.Second)
		events := at.Picture().Events
		require.Len(t, events, 4)
		assert.Equal(t, look.WasReset, events[0].Kind)
		assert.Equal(t, "connection_limit from 10 to 3", events[1].Text)
		assert.Equal(t, look.Recovered, events[2].Kind)
		assert.Equal(t, look.DialFailed, events[3].Kind)
		assert.Contains(t, events[3].Text, "no route")
		assert.Equal(t, 3, events[3].Count)
		assert.Equal(t, 2*time.Second, events[3].Last.Sub(events[3].First))
		for range 300 {
			at.Note("kind", strings.Repeat("€", 1000))
			at.Note("kind", "short")
		}
		events = at.Picture().Events
		assert.Len(t, events, 100)
		assert.Less(t, len(events[1].Text), 500)
		assert.True(t, utf8.ValidString(events[1].Text))
	})
}

// A dial that is under way is a slot, too.
func TestOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := fakedriver.New()
		server.OnDial(func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		db, err := lifeguard.OpenDB(server.Connector())
		require.NoError(t, err)
		defer db.Close()
		at := db.Driver().(interface{ Look() *look.Pool }).Look()
		done := make(chan error)
		go func() { done <- db.PingContext(t.Context()) }()
		time.Sleep(2 * time.Second)
		pic := at.Picture()
		require.Len(t, pic.Slots, 1)
		assert.Equal(t, look.Opening, pic.Slots[0].State)
		assert.Equal(t, 2*time.Second, pic.Slots[0].For)
		require.NoError(t, <-done)
		assert.False(t, at.Closed())
		require.NoError(t, db.Close())
		assert.True(t, at.Closed())
	})
}
