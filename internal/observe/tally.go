package observe

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/histogram"
)

// maxTallies is how many queries are counted. One more takes the place of the one that was seen the longest ago.
const maxTallies = 128

// Tally counts the operations of one query that were slow or failed.
type Tally struct {
	Query     string // sanitised; "" for operations without one
	Operation string // its verb
	Slow      uint64 // took at least slow_query_threshold
	Errors    uint64 // failed, slow or not
	Sum, Max  time.Duration
	Took      histogram.Histogram // of the slow ones, as Sum and Max are
	LastError string              // error.type
	Last      time.Time
	Caller    runtime.Frame // of the last one; no File if it was not found
}

// tallies are kept by the text that is shown: queries that differ in their literals alone are one.
type tallies struct {
	mu      sync.Mutex
	byQuery map[tallyKey]*Tally // guarded by mu
}

type tallyKey struct{ operation, query string }

func (t *tallies) count(op *Operation, s *shape, slow bool, failed failure) {
	key := tallyKey{s.operation, s.text}
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.byQuery[key]
	if one == nil {
		if t.byQuery == nil {
			t.byQuery = map[tallyKey]*Tally{}
		}
		if len(t.byQuery) >= maxTallies {
			t.forgetLocked()
		}
		one = &Tally{Query: s.text, Operation: s.operation}
		t.byQuery[key] = one
	}
	if slow {
		one.Slow++
		one.Sum += op.Took
		one.Max = max(one.Max, op.Took)
		one.Took.Add(op.Took)
	}
	if failed.typ != "" {
		one.Errors++
		one.LastError = failed.typ
	}
	one.Last, one.Caller = op.At, op.Caller.frame
}

func (t *tallies) forgetLocked() {
	var oldest tallyKey
	var at time.Time
	for key, one := range t.byQuery {
		if at.IsZero() || one.Last.Before(at) {
			oldest, at = key, one.Last
		}
	}
	delete(t.byQuery, oldest)
}

// list copies what was counted, the longest sum first.
func (t *tallies) list() []Tally {
	t.mu.Lock()
	all := make([]Tally, 0, len(t.byQuery))
	for _, one := range t.byQuery {
		all = append(all, *one)
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(b.Sum, a.Sum), cmp.Compare(b.Errors, a.Errors), cmp.Compare(a.Query, b.Query))
	})
	return all
}
