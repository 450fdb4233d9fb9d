package dsn

import (
	"regexp"
	"strings"
)

var (
	// pathStart matches DSNs of embedded databases that have a colon, but no user
	// and password before an "@": file:…, :memory: and C:\….
	pathStart = regexp.MustCompile(`^((?i:file:)|:memory:|[A-Za-z]:[\\/])`)

	// mysqlForm matches DSNs that only go-sql-driver/mysql has:
	// …@tcp(host)/database with no further "/".
	mysqlForm = regexp.MustCompile(`(^|@)(tcp|unix)\([^()]*\)/[^/]*$`)
)

// splitPlain finds the query part of a DSN of no other form:
// user:password@net(address)/database?… of MySQL, and file names.
//
// The query starts at the first "?" after the password and the address; the
// drivers for SQLite and MySQL agree. The password is not encoded in the MySQL
// form and may have any character. It ends as go-sql-driver/mysql reads it, at the
// last "@" before the last "/". Where no address is between those two (a "/" in a
// value, a DSN of another driver), it ends at the last "@" that a host can follow.
// An "@" that only such a host follows (host:5432/db?email=a@b) does not count if
// the DSN starts with a host of its own.
//
// There is a password only where a ":" comes before the first "?". A user name has
// no "?", and file names with an "@" in their query (app.db?_auth_user=a@b) are
// common.
func splitPlain(dsn string) Parts {
	parts := Parts{dsn: dsn}
	from := hostEnd(dsn, 0)
	if colon := strings.IndexAny(dsn, ":?"); colon >= 0 && dsn[colon] == ':' && !pathStart.MatchString(dsn) {
		slash := strings.LastIndexByte(dsn, '/')
		at := strings.LastIndexByte(dsn[:max(slash, 0)], '@')
		if at >= 0 && isAddress(dsn[at+1:slash]) {
			from = slash
			host, _ := lastHost(dsn, slash)
			parts.Ambiguous = host >= 0
		} else if host, end := lastHost(dsn, 0); host >= 0 {
			front := dsn[:strings.IndexAny(dsn+"?", "/?")]
			parts.Ambiguous = end == len(dsn) && hostList.MatchString(front)
			if !parts.Ambiguous {
				from = end
			}
		}
	}
	parts.splitQuery(from, len(dsn))
	return parts
}

// isAddress reports whether the MySQL driver reads text as net or net(address).
func isAddress(text string) bool {
	network, address, found := strings.Cut(text, "(")
	return !strings.ContainsAny(network, "/?#&=)") && (!found || strings.HasSuffix(address, ")"))
}
