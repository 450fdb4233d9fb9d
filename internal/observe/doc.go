// Package observe shows what the users of a pool do: spans and log lines of operations that are slow or fail, metrics of
// all of them, and spans of leaks.
//
// An [Operation] is shown after its end, with the times at which it really began and ended. So a fast one costs no span
// and no allocation. Each is shown with its query, sanitised, and with the application's code that ran it. Names and
// attributes are those of OpenTelemetry's semantic conventions.
//
// Arguments, literals, passwords and the text of a database's errors never leave this package.
//
// The package refuses to know pools, sessions and leases: it reads no state, and takes what it is given. It starts no
// goroutine and keeps no operation. What it remembers of queries and callers is bounded.
package observe
