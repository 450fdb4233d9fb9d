// Customers is a small HTTP service that keeps its database behind lifeguard.
// It is meant to be copied from: the pool's limits come from the DSN, an
// exhausted pool becomes a 503 that says so, and a deploy loses no request.
//
//	go run ./examples/customers
//
// runs it on SQLite in a temporary file. With DATABASE_URL set it runs on that
// PostgreSQL instead:
//
//	DATABASE_URL='postgres://user:password@localhost:5432/shop?connection_limit=10' go run ./examples/customers
//
// What it shares with the service beside it, settings, errors and the end, is in
// examples/internal/service. It has no authentication, and it is no framework:
// what it does not need is not there.
package main

import (
	"os"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

func main() { os.Exit(service.Main(app)) }

var app = &service.Service{
	Name:   "customers",
	Port:   4004,
	Tables: tables,
	New:    newHandler,
	Try: []string{
		"curl 'BASE/api/customers?limit=3'",
		`curl -i BASE/api/customers -d '{"name": "New Customer", "email": "new@example.com"}'`,
		"curl BASE/healthz",
		"curl BASE/metrics",
		"BASE/ in a browser makes trouble, and BASE/debug/pool/ shows it",
		"ab -n 1000 -c 100 BASE/api/customers",
	},
}

// tables creates the table and fills it if it is empty.
func tables(key string) []string {
	return []string{`CREATE TABLE IF NOT EXISTS customers (
		id    ` + key + `,
		name  TEXT NOT NULL,
		email TEXT NOT NULL UNIQUE
	)`, `INSERT INTO customers (name, email)
		WITH RECURSIVE numbers (n) AS (
			SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100
		)
		SELECT 'Customer ' || n, 'customer' || n || '@example.com'
		FROM numbers
		WHERE NOT EXISTS (SELECT 1 FROM customers)
		ORDER BY n`}
}
