package leak

import (
	"runtime"
	"sync/atomic"
	"time"
)

// collectionPause is the least time between two garbage collections that the pools of this process ask for.
const collectionPause = int64(10 * time.Second)

// process is shared by all pools, because a collection costs the whole process.
var process = collections{run: runtime.GC}

type collections struct {
	last atomic.Int64 // wall clock of the last request; 0: none yet
	run  func()
}

// request starts a collection, unless it is too soon for one. Time runs backwards between a testing/synctest bubble and
// its surroundings: a last request in the future counts for nothing, or none would be granted for years.
func (c *collections) request() bool {
	now, last := time.Now().UnixNano(), c.last.Load()
	soon := now >= last && now-last < collectionPause
	if soon || !c.last.CompareAndSwap(last, now) {
		return false
	}
	go c.run() // ends with the collection
	return true
}
