// Package activity asks PostgreSQL for its sessions, as pg_stat_activity has them, on one connection of its own.
//
// It asks in a read-only transaction, waits for a second at most, and asks at most twice a second, however often it is
// called. The package refuses to know pools, and to read the text of a query, which has literals.
package activity
