package lifeguard

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Collections are asked for at most once a second, rarer and rarer while they find nothing, and once a second again as
// soon as one did.
func TestCollectionRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c collectionRequests
		granted := func(length time.Duration) (at []int) {
			for start := time.Now(); time.Since(start) < length; time.Sleep(10 * time.Millisecond) {
				if c.request() {
					at = append(at, int(time.Since(start)/time.Millisecond))
				}
				synctest.Wait()
			}
			return at
		}
		if got, want := granted(40*time.Second), []int{0, 1000, 3000, 7000, 15000, 25000, 35000}; !slices.Equal(got, want) {
			t.Errorf("collections after %v ms, want %v", got, want)
		}
		c.paidOff()
		if got, want := granted(4*time.Second), []int{0, 1000, 3000}; !slices.Equal(got, want) {
			t.Errorf("collections after %v ms, want %v", got, want)
		}
	})
}
