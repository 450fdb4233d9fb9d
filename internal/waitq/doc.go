// Package waitq is a queue of waiters that changes its order under overload.
//
// It serves the longest waiter while most waiters can be served in time. Once there is more work than capacity, that
// order is the worst of all: each waiter is served at the very end of its patience and gives up in the middle of its
// work. Then the queue serves the newest waiter first, until most can be served in time again.
//
// The package refuses to know what the waiters wait for, to read a clock, and to lock: its user passes the time and
// holds a lock of its own.
package waitq
