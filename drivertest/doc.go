// Package drivertest tests lifeguard on drivers other than lib/pq: pgx, go-sql-driver/mysql and modernc.org/sqlite. It
// has no code but tests, in a module of its own so that the library does not depend on these drivers.
package drivertest
