// Package fakedriver is a database/sql driver for tests and benchmarks that
// stands at the driver boundary: everything above it, database/sql included,
// is the real thing.
//
//   - [Server] is an in-memory database server. Scripts decide what dialling,
//     queries, transactions and the rest do; it counts what happens and
//     records every breach of the driver contract ([Server.Violations]).
//   - [Fast] is a driver that does as little as a driver can, so that the cost
//     of database/sql and of a wrapper around the driver is what a benchmark
//     measures.
//
// It does not parse SQL and stores nothing.
package fakedriver
