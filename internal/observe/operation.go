package observe

import (
	"context"
	"database/sql/driver"
	"time"
)

// Kind is the kind of an operation.
type Kind uint8

// The values of [Kind]. The first three have a query.
const (
	Exec Kind = iota
	Query
	Prepare
	Begin
	Commit
	Rollback
	Ping
	Connect // to wait for a connection
	kinds
)

// operationNames are db.operation.name where the query does not give it.
var operationNames = [kinds]string{
	Prepare:  "PREPARE",
	Begin:    "BEGIN",
	Commit:   "COMMIT",
	Rollback: "ROLLBACK",
	Ping:     "PING",
	Connect:  "CONNECT",
}

// Operation is one that has ended.
type Operation struct {
	Kind   Kind
	Query  string // as it was run; "" for kinds without one
	Took   time.Duration
	Waited time.Duration // for the connection, by the first operation of a checkout
	At     time.Time     // its end; zero for now
	First  bool          // it is the first of its checkout
	Rows   int           // that were read, of a Query
	Err    error
	Stack  []uintptr // of the checkout; nil if it was not captured

	// Caller is the result of Here when the operation began, or nil. Ended fills it where the operation is shown.
	Caller *Caller

	// Begun is the caller of Begin, for Commit and Rollback, or nil.
	Begun *Caller
}

// Ended shows an operation wherever it is to be shown. It is called on the goroutine that ran it. Of an operation that is
// not shown it allocates nothing.
func (o *Observer) Ended(ctx context.Context, op *Operation) {
	if op.Err == driver.ErrSkip {
		return // not an operation: the driver asks for another way
	}
	defer o.contain()
	if op.Err == nil && op.Took < o.limit {
		o.measure(ctx, op, failure{})
		return
	}
	o.show(ctx, op)
}

// show is apart from Ended, so that an operation that is not shown needs less of the stack.
func (o *Observer) show(ctx context.Context, op *Operation) {
	var failed failure
	if isFailure(ctx, op) {
		failed = o.failure(op.Err)
	}
	slow := op.Took >= o.slow
	if slow && op.Kind != Connect {
		o.slowQueries.Add(1)
	}
	o.measure(ctx, op, failed)
	withSpan := o.trace == TraceAll || o.trace == TraceSlow && (slow || failed.typ != "")
	withLine := o.log == LogAll || o.log == LogSlow && slow
	if !withSpan && !withLine {
		return
	}
	if op.At.IsZero() {
		op.At = time.Now()
	}
	if op.Kind == Connect {
		op.Waited = op.Took
	}
	s := o.shapeOfOperation(op)
	op.Caller = o.caller(s, op)
	if withSpan {
		o.span(ctx, op, s, failed)
	}
	if withLine {
		o.line(ctx, op, s, failed, slow)
	}
}
