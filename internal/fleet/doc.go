// Package fleet is one budget of connections for all processes that name the same fleet, on PostgreSQL itself.
//
// A Member is the part of one process in the protocol: a state machine without a clock, a lock or I/O. It says what to
// ask the server next, and learns from the answers and from what other members say. A Fleet carries it out: it keeps one
// session of its own with the server, on which tokens are advisory locks, and hands tokens to a pool.
//
// A token is held on the server, by the fleet session and by the connection that was opened for it. It is free when both
// are gone. What members say to each other decides who takes a token and who gives one up, and never who has one.
//
// The package refuses to know what a pool is, who waits in one, and how its connections are opened.
package fleet
