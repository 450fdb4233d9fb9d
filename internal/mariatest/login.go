package mariatest

import (
	"net"
	"strings"
)

// A login is what a data source name says besides the database.
type login struct{ user, password, host, port, params string }

func (l login) dsn(database string) string {
	return l.user + ":" + l.password + "@tcp(" + net.JoinHostPort(l.host, l.port) + ")/" + database + "?" + l.params
}

// parse takes user:password@tcp(host:port)/database?params apart as go-sql-driver/mysql does: the password may contain
// any of the separators.
func parse(dsn string) (l login, ok bool) {
	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return login{}, false
	}
	server, rest := dsn[:slash], dsn[slash+1:]
	at := strings.LastIndexByte(server, '@')
	if at < 0 {
		return login{}, false
	}
	l.user, l.password, _ = strings.Cut(server[:at], ":")
	address, isTCP := strings.CutPrefix(server[at+1:], "tcp(")
	address, closed := strings.CutSuffix(address, ")")
	if !isTCP || !closed || l.user == "" {
		return login{}, false
	}
	var err error
	if l.host, l.port, err = net.SplitHostPort(address); err != nil {
		l.host, l.port = strings.Trim(address, "[]"), "3306"
	}
	if _, l.params, _ = strings.Cut(rest, "?"); l.params == "" {
		l.params = "parseTime=true"
	}
	return l, l.host != ""
}
