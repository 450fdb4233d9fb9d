package dsn

import (
	"slices"
	"strings"
)

// driverNames are the parameters that drivers and servers know and that are
// within two edits of one of lifeguard's. All else they know is further off: lib/pq
// 1.12 (its Config), pgx 5.12 (pgconn, pgx and pgxpool, so pool_max_conns and
// statement_cache_capacity), libpq 18, go-sql-driver/mysql 1.10, go-mssqldb 1.11,
// modernc.org/sqlite 1.61, mattn/go-sqlite3 1.14, ncruces/go-sqlite3 0.37, and the
// run-time parameters of PostgreSQL 18, MySQL 8 and MariaDB 10.11, which reach the
// server through the DSN.
var driverNames = []string{
	"max_connections",     // PostgreSQL, MySQL; two from min_connections
	"keepalives_interval", // libpq; one from keepalive_interval
}

// Misspelt returns the one of known that name was meant to be: the nearest of
// those at most two edits away, where case does not count as one. It returns "" if
// there is none, or if a driver or a server knows name.
func Misspelt(name string, known []string) string {
	name = strings.ToLower(name)
	if slices.Contains(driverNames, name) {
		return ""
	}
	meant, nearest := "", 3
	for _, k := range known {
		if n := edits(name, k); n < nearest {
			meant, nearest = k, n
		}
	}
	return meant
}

// edits returns how many insertions, deletions, substitutions and swaps of
// neighbours turn a into b (Damerau-Levenshtein distance, no piece edited twice),
// or 3 for more than two.
func edits(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			substitution := last[j]
			if a[i] != b[j] {
				substitution++
			}
			row[j+1] = min(substitution, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], 3)
}
