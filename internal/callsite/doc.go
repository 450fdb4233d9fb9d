// Package callsite says where in the application a call came from: the innermost frame that is not database/sql's,
// lifeguard's, or a data-access library's between them and the application.
//
// Stacks are captured as program counters with [runtime.Callers]. They are resolved to names and lines only for a report,
// which takes some microseconds. A [Budget] bounds how many are captured.
//
// The package refuses to know the purpose of a stack. Nothing decides by a stack how it treats a connection, with two
// exceptions, both proofs without which nothing happens: [OwnedByDBQuery] and [OwnedByDB].
package callsite
