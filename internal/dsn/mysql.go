package dsn

import (
	"cmp"
	"net"
	"net/url"
	"regexp"
	"strings"
)

var networkName = regexp.MustCompile(`^[A-Za-z0-9+._-]+$`)

// mysqlTarget reads [user[:password]@][net[(address)]]/database[?…] as
// go-sql-driver/mysql does, and mysql:// URLs of other drivers.
func mysqlTarget(dsn string) Target {
	if keywordStart.MatchString(dsn) {
		return Target{} // password=… of some other system
	}
	if urlScheme(dsn) != "" {
		if _, t, ok := splitURL(dsn).target(); ok && t.Host != "" {
			t.Port = cmp.Or(t.Port, "3306")
			return t
		}
		return Target{}
	}

	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return Target{}
	}
	if later, _ := lastHost(dsn, slash); later >= 0 {
		return Target{} // a part of the password may stand before that "@"
	}
	path, _, _ := strings.Cut(dsn[slash+1:], "?")
	database, err := url.PathUnescape(path)
	if err != nil {
		return Target{}
	}
	t, ok := mysqlAddress(dsn[strings.LastIndexByte(dsn[:slash], '@')+1 : slash])
	if !ok {
		return Target{}
	}
	t.Database = database
	return t
}

// mysqlAddress reads net, net(address) or "". ok is false if text is none of them,
// or may be the front of a password.
func mysqlAddress(text string) (t Target, ok bool) {
	network, address, found := strings.Cut(text, "(")
	if found {
		if address, found = strings.CutSuffix(address, ")"); !found {
			return Target{}, false
		}
	}
	switch network = cmp.Or(network, "tcp"); {
	case !networkName.MatchString(network):
		return Target{}, false
	case network == "tcp":
		t.Host, t.Port, ok = cutHost(cmp.Or(address, "127.0.0.1"))
		t.Port = cmp.Or(t.Port, "3306")
		return t, ok
	case network == "unix":
		return Target{Host: cmp.Or(address, "/tmp/mysql.sock")}, true
	case address == "":
		// The driver refuses a custom network without an address, and the word may
		// be the front of a password.
		return Target{}, false
	}
	if host, port, err := net.SplitHostPort(address); err == nil && isDigits(port) {
		return Target{Host: host, Port: port}, true
	}
	return Target{Host: address}, true
}
