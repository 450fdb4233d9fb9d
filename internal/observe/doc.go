// Package observe shows the operations of a pool: spans and log lines of those that are slow or fail, metrics of all, and
// spans of leaks.
//
// An [Operation] is shown after its end, with the times at which it really began and ended. So a fast one costs no span
// and no allocation. Each is shown with its query, sanitised, and with the application's code that ran it. Names and
// attributes are those of OpenTelemetry's semantic conventions.
//
// Arguments, literals, passwords and the text of a database's errors never leave this package.
//
// The package refuses to know pools, sessions and leases: everything that it shows is passed to it. It starts no goroutine
// and keeps no operation. The queries and callers that it remembers are bounded in number.
package observe
