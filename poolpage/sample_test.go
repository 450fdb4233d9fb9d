package poolpage

import (
	"context"
	"database/sql/driver"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/look"
)

func TestSizeOfTheRing(t *testing.T) {
	assert.EqualValues(t, 56, reflect.TypeFor[sample]().Size(), "docs/poolpage.md and sample.go say so")
	assert.Less(t, reflect.TypeFor[ring]().Size(), uintptr(18_000))
}

// A handler looks once a second, whether anybody asks or not, and forgets after five minutes.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, server := open(t, lifeguard.WithConnectionLimit(1), lifeguard.WithPoolTimeout(10*time.Second))
		server.OnQuery(func(context.Context, *fakedriver.Conn, string, []driver.NamedValue) error {
			time.Sleep(3 * time.Second)
			return nil
		})
		h := Handler(db).(*handler)
		time.Sleep(every / 2)
		var callers sync.WaitGroup
		for range 5 { // the last of them times out after 10 s
			callers.Go(func() { _, _ = db.ExecContext(t.Context(), "SELECT 1") })
		}
		time.Sleep(time.Second)
		all := h.pools[0].past.history()
		require.Len(t, all, 2)
		assert.Equal(t, 1, all[1].InUse)
		assert.Equal(t, 4, all[1].Waiting)
		assert.Equal(t, 1, all[1].Acquired)
		callers.Wait()
		time.Sleep(2 * time.Second)
		all = h.pools[0].past.history()
		waits, timeouts := 0, 0
		for _, s := range all {
			waits += s.Waits
			timeouts += s.Timeouts
			if s.Waits == 1 && s.Timeouts == 0 {
				assert.Equal(t, s.WaitP50, s.WaitP99)
				assert.Positive(t, s.WaitP50)
			}
		}
		assert.Equal(t, 5, waits, "the first has waited for the dial, four for others, one of them in vain")
		assert.Equal(t, 1, timeouts)
		time.Sleep(10 * time.Minute)
		all = h.pools[0].past.history()
		require.Len(t, all, kept)
		assert.Equal(t, (kept-1)*every, all[kept-1].At.Sub(all[0].At))
	})
}

// All who watch share one look a second, and an event has what has changed.
func TestWatchersShareALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := open(t)
		require.NoError(t, db.PingContext(t.Context()))
		h := Handler(db)
		ctx, leave := context.WithCancel(t.Context())
		pages := make([]*httptest.ResponseRecorder, 50)
		var watchers sync.WaitGroup
		for i := range pages {
			pages[i] = httptest.NewRecorder()
			watchers.Go(func() {
				h.ServeHTTP(pages[i], httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil))
			})
		}
		time.Sleep(10*time.Second + every/2)
		w := h.(*handler).pools[0]
		leave()
		watchers.Wait()
		for _, p := range pages {
			assert.Equal(t, pages[0].Body.String(), p.Body.String())
		}
		events := strings.Split(strings.TrimSpace(pages[0].Body.String()), "\n\n")
		require.Len(t, events, 11)
		assert.Contains(t, events[0], `"leaks":`)
		assert.NotContains(t, events[5], `"leaks":`)
		assert.Contains(t, events[5], `"slots":`, "a connection grows older")
		number := w.latest().number
		time.Sleep(10 * time.Second)
		assert.Equal(t, number+1, w.latest().number, "nobody watches")
	})
}

// A pool may end at any moment: while nobody watches, or while a frame is made that takes long because of the server. Who
// watches is told, and no request is left behind.
func TestWatchersOfAPoolThatEnds(t *testing.T) {
	watch := func(t *testing.T, h http.Handler) func() string {
		page, done := httptest.NewRecorder(), make(chan struct{})
		go func() {
			defer close(done)
			h.ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/events", nil))
		}()
		return func() string {
			select {
			case <-done:
				return page.Body.String()
			case <-time.After(time.Minute):
				t.Error("the watcher is left behind")
				return ""
			}
		}
	}
	t.Run("unseen", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			db, _ := open(t)
			h := Handler(db)
			time.Sleep(every - fresh/4)
			get(h, "/", browser) // a frame with an open pool
			require.NoError(t, db.Close())
			time.Sleep(fresh / 2) // the last tick has seen no watcher
			assert.Contains(t, watch(t, h)(), "The pool is closed.")
		})
	})
	t.Run("during a long frame", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			db, _ := open(t)
			h := Handler(db)
			end := watch(t, h)
			synctest.Wait()
			w := h.(*handler).pools[0]
			w.rendering.Lock()
			require.NoError(t, db.Close())
			time.Sleep(2 * every)
			w.rendering.Unlock()
			assert.Contains(t, end(), "The pool is closed.")
		})
	})
}

// What BenchmarkLook takes is what a mounted handler costs a second.
func BenchmarkLook(b *testing.B) {
	db, _ := open(b)
	for range 10 {
		conn, err := db.Conn(b.Context())
		require.NoError(b, err)
		defer conn.Close()
	}
	p, _ := lifeguard.PoolOf(db)
	at := db.Driver().(interface{ Look() *look.Pool }).Look()
	var r ring
	b.ReportAllocs()
	for b.Loop() {
		r.take(at, p.Stats().Acquired, time.Now())
	}
}

// BenchmarkWatched runs queries in memory while nobody and while a hundred watch.
func BenchmarkWatched(b *testing.B) {
	for _, c := range []struct {
		name     string
		mounted  bool
		watchers int
	}{{"Page=none", false, 0}, {"Page=mounted", true, 0}, {"Watchers=100", true, 100}} {
		b.Run(c.name, func(b *testing.B) {
			db, err := lifeguard.OpenDB(fakedriver.Fast())
			require.NoError(b, err)
			defer db.Close()
			ctx, leave := context.WithCancel(b.Context())
			var watchers sync.WaitGroup
			defer watchers.Wait()
			defer leave()
			if c.mounted {
				h := Handler(db)
				for range c.watchers {
					watchers.Go(func() {
						h.ServeHTTP(discard{http.Header{}}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil))
					})
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := db.ExecContext(ctx, "SELECT 1"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
