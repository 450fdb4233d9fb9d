// Reservations is a second small HTTP service behind lifeguard. It stands for
// what the customers service has not: a transaction over two tables, in which
// callers conflict.
//
//	go run ./examples/reservations
//
// runs it on SQLite in a temporary file. With DATABASE_URL set it runs on that
// PostgreSQL instead, which may be the one of the customers service:
//
//	DATABASE_URL='postgres://user:password@localhost:5432/shop?connection_limit=4' go run ./examples/reservations
//
// Settings, errors and the end are those of the customers service; they are in
// examples/internal/service.
package main

import (
	"os"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

func main() { os.Exit(service.Main(app)) }

var app = &service.Service{
	Name:   "reservations",
	Port:   4005,
	Tables: tables,
	New:    newHandler,
	Try: []string{
		`curl -i BASE/api/reservations -d '{"event": 1, "customer": 7, "seats": 2}'`,
		"curl 'BASE/api/reservations?event=1&limit=3'",
		"curl 'BASE/api/events?limit=3'",
		"curl BASE/healthz",
		"curl BASE/metrics",
		"BASE/ in a browser makes trouble, and BASE/debug/pool/ shows it",
		"ab -n 1000 -c 100 'BASE/api/events?limit=3'",
	},
}

// tables creates the tables, and fills that of the events if it is empty. A
// customer is only a number here: the customers may be in another database.
func tables(key string) []string {
	return []string{`CREATE TABLE IF NOT EXISTS events (
		id       ` + key + `,
		name     TEXT NOT NULL,
		capacity INTEGER NOT NULL,
		reserved INTEGER NOT NULL DEFAULT 0,
		CHECK (reserved BETWEEN 0 AND capacity)
	)`, `CREATE TABLE IF NOT EXISTS reservations (
		id       ` + key + `,
		event    BIGINT NOT NULL REFERENCES events (id),
		customer BIGINT NOT NULL,
		seats    INTEGER NOT NULL CHECK (seats > 0),
		UNIQUE (event, customer)
	)`, `INSERT INTO events (name, capacity)
		WITH RECURSIVE numbers (n) AS (
			SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20
		)
		SELECT 'Event ' || n, 500
		FROM numbers
		WHERE NOT EXISTS (SELECT 1 FROM events)
		ORDER BY n`}
}
