package leak

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// granted asks again and again for a while, and says after how many milliseconds that was granted.
func granted(c *collections, length time.Duration) (at []int) {
	for start := time.Now(); time.Since(start) < length; time.Sleep(10 * time.Millisecond) {
		if c.request() {
			at = append(at, int(time.Since(start)/time.Millisecond))
		}
	}
	return at
}

func TestCollectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := collections{run: func() {}}
		if got, want := granted(&c, 35*time.Second), []int{0, 10000, 20000, 30000}; !slices.Equal(got, want) {
			t.Errorf("collections after %v ms, want %v", got, want)
		}
	})
}

// Many pools ask at the same moment: one collection.
func TestCollectionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		c := collections{run: func() { runs.Add(1) }}
		for range 20 {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { c.request() })
			}
			wg.Wait()
			time.Sleep(time.Second)
		}
		if n := runs.Load(); n != 2 {
			t.Errorf("%d collections in 20 s, want 2", n)
		}
	})
}

// The clock of a bubble starts in the year 2000: after a request outside of it, one inside is granted all the same, and
// again one in another bubble, and outside.
func TestCollectionsAcrossBubbles(t *testing.T) {
	c := collections{run: func() {}}
	outside := func() {
		t.Helper()
		if !c.request() {
			t.Error("refused outside")
		}
		if c.request() {
			t.Error("granted twice outside")
		}
	}
	bubble := func(length time.Duration, want ...int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			if got := granted(&c, length); !slices.Equal(got, want) {
				t.Errorf("collections after %v ms, want %v", got, want)
			}
		})
	}
	outside()
	bubble(15*time.Second, 0, 10000)
	bubble(15*time.Second, 0, 10000) // begins before the last request
	bubble(5*time.Second, 0)
	outside()
}

func TestPoolsShareCollections(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	cfg := Config{Threshold: time.Minute, Done: done}
	if first, second := New(cfg), New(cfg); first.gc != &process || second.gc != &process {
		t.Error("pools have bounds of their own")
	}
}
