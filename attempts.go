package lifeguard

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"

	"github.com/go-lifeguard/lifeguard/internal/callsite"
)

// repeats says whether database/sql will make another attempt when the operation that the present goroutine runs fails
// with driver.ErrBadConn. It does so in one function, for all but the last attempt, which is a line of its own there.
func repeats() bool {
	var stack [2 * maxChain]uintptr
	return leavesOthers(retryLine(stack[:callsite.Capture(0, stack[:])]))
}

// leavesOthers says whether there are attempts after the one at a line of that loop.
func leavesOthers(line int) bool { return line != 0 && line != lastAttempt() }

// retryLine is the line of database/sql's loop of attempts that the stack goes through, 0 if it does not.
func retryLine(stack []uintptr) int {
	f, _ := frameOf(stack, callsite.RetryFunction)
	return f.Line
}

// lastAttempt is the line of the last attempt. It is found by making database/sql go through all of them, so that it is
// right for every version of Go.
var lastAttempt = sync.OnceValue(func() int {
	c := &badConnector{}
	db := sql.OpenDB(c)
	_ = db.PingContext(context.Background())
	_ = db.Close()
	return c.line
})

// badConnector keeps the line of the latest attempt to connect.
type badConnector struct{ line int }

func (c *badConnector) Connect(context.Context) (driver.Conn, error) {
	var pcs [callsite.Depth]uintptr
	c.line = retryLine(pcs[:callsite.Capture(0, pcs[:])])
	return nil, driver.ErrBadConn
}

func (c *badConnector) Driver() driver.Driver { return nil }
