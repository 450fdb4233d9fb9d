// Package drivertest tests lifeguard on drivers other than lib/pq: pgx, go-sql-driver/mysql and modernc.org/sqlite. It
// has no code but tests.
package drivertest
