package observe

import "time"

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
