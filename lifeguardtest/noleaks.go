// Package lifeguardtest has helpers for tests of programs that use lifeguard.
package lifeguardtest

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard"
)

// patience is how long a connection may take to come back after the test: rows whose context has ended are closed by a
// goroutine of database/sql.
const patience = time.Second

// NoLeaks fails t at its end if the test has left a connection, a transaction or rows of db open, with the stack of the
// code that took the connection. Connections that are held when NoLeaks is called are left out. A handle that was not
// opened through lifeguard fails the test at once.
//
// It looks after all cleanups that were registered later, so call it right after opening the handle.
func NoLeaks(t testing.TB, db *sql.DB) {
	t.Helper()
	pool, ok := lifeguard.PoolOf(db)
	if !ok {
		t.Fatal("lifeguardtest: NoLeaks was given a handle that was not opened through lifeguard")
	}
	before := map[time.Time]bool{}
	for _, h := range pool.Holders() {
		before[h.Since] = true
	}
	t.Cleanup(func() {
		t.Helper()
		left := func() (holders []lifeguard.Holder) {
			for _, h := range pool.Holders() {
				if !before[h.Since] {
					holders = append(holders, h)
				}
			}
			return holders
		}
		for began := time.Now(); len(left()) > 0 && time.Since(began) < patience; {
			time.Sleep(patience / 100)
		}
		for _, h := range left() {
			t.Error(describe(&h))
		}
	})
}

func describe(h *lifeguard.Holder) string {
	what := "a connection, or rows on it,"
	if h.InTx {
		what = "a transaction"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "lifeguardtest: the test left %s open", what)
	if h.LastQuery != "" {
		fmt.Fprintf(&b, "; last query %q", h.LastQuery)
	}
	b.WriteString("; taken at\n")
	for _, f := range h.Stack {
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
	}
	return b.String()
}
