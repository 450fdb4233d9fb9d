// Package stmtcache runs queries on prepared statements that it keeps by their
// text, and knows when a kept statement must not be trusted.
//
// On a kept statement a query takes one round trip instead of two or three. The
// names, literals and parameters of a statement mean what they meant when it was
// prepared. The package hides the difference to one that is prepared now:
//
//   - it reads every text that runs, and keeps only texts that it understands;
//   - after a text that may change what others mean, statements are prepared
//     again: those of the session, or of the pool if other clients see the change;
//   - no statement is used for more than five seconds ([validity]), because
//     nothing tells of changes by clients outside the pool;
//   - an error that such a change can cause has the statement prepared anew, and
//     is given to the caller only if a fresh statement could give it as well.
//
// A text that is not certainly understood is not kept, and counts as a change.
// To prepare a statement once more costs a round trip, to use a wrong one costs
// data.
//
// The package refuses to know transactions beyond what texts and [Cache.Ended]
// say, timeouts and how a query is cancelled, pools, leases and results. Drivers whose ways it does not know run everything as they are.
package stmtcache
