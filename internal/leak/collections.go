package leak

import (
	"runtime"
	"sync/atomic"
	"time"
)

// process bounds the garbage collections that all pools ask for, because each costs the whole process.
var process = collections{run: runtime.GC}

type collections struct {
	last atomic.Int64 // wall clock of the last request; 0: none yet
	run  func()
}

// request starts a collection, unless it is too soon for one. Time runs backwards between a testing/synctest bubble and
// its surroundings, so a last request in the future counts for nothing. Otherwise none would be granted for years.
func (c *collections) request() bool {
	now, last := time.Now().UnixNano(), c.last.Load()
	soon := now >= last && now-last < int64(10*time.Second)
	if soon || !c.last.CompareAndSwap(last, now) {
		return false
	}
	go c.run() // ends with the collection
	return true
}
