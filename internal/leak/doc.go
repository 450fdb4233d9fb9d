// Package leak finds connections that their holders forgot, reports them, and takes back those that may be taken.
//
// A leak is found in two ways. A checkout that is held for longer than a threshold is suspected. A result that was
// dropped before anybody closed it is certain: the garbage collector finds it, see [Ticket].
//
// The package refuses to know SQL, database/sql, log lines, spans and how a connection is closed. It reads no stack and
// no query: a [Report] carries both as they are in the record of the lease, which it knows by the interface [Lease].
package leak
