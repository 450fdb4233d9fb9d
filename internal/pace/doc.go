// Package pace says how fast connections may be opened: how many dials may be in flight at once, when the next may begin
// after one that failed, from which age on a dial may be lost, and when a server counts as down.
//
// The package refuses to dial, to read a clock, to lock, and to know what a dial opens: its user tells it how dials went,
// passes the time, and holds a lock of its own.
package pace
