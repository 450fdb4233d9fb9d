// Package veil is what is known of a library between a handle and its leases.
//
// Such a library may hide IsValid, ResetSession or both from database/sql. Then the handle has leases back, or uses them,
// unseen: each checkout would cost a dial, and a waiter would wait beside a connection that nobody uses.
//
// The package refuses to know leases. It remembers what was seen of the library, and says what follows.
package veil
