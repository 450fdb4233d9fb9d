package dsn

import (
	"net"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the most bytes a pool's name may have.
const MaxName = 255

// Target is where a DSN leads, for names and telemetry. Fields that cannot be told
// for certain are empty.
type Target struct {
	System   string // db.system.name of OpenTelemetry: postgresql, mysql, sqlite or other_sql
	Host     string // name, address without brackets, or path of a Unix socket; the first of several
	Port     string
	Database string // a file's base name for an embedded database
	Driver   string // the name the driver is registered under
}

// PoolName returns host:port/database, without the parts that are not known, or the
// driver's name if none is. It has 1 to [MaxName] bytes.
func (t Target) PoolName() string {
	name := t.Host
	if t.Port != "" {
		name = net.JoinHostPort(t.Host, t.Port)
	}
	switch {
	case name == "":
		name = t.Database
	case t.Database != "":
		name += "/" + t.Database
	}
	for _, s := range []string{t.Driver, t.System, "database"} {
		if name == "" && isLabel(s) {
			name = s
		}
	}
	for len(name) > MaxName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = strings.TrimSpace(name[:len(name)-size])
	}
	return name
}

// Find finds where the wrapped driver's DSN leads. The driver's name says how to
// read it; under a name that tells nothing, its form does. A DSN that seems to have
// a password mixed into its address gives no address at all, and neither does one
// with semicolons.
func Find(driverName, dsn string) Target {
	t := Target{System: System(driverName, dsn), Driver: driverName}
	if _, ok := splitSemicolons(dsn); ok {
		return t
	}
	var found Target
	switch t.System {
	case "postgresql":
		found = postgresTarget(driverName, dsn)
	case "mysql":
		found = mysqlTarget(dsn)
	case "sqlite":
		found = sqliteTarget(dsn)
	}
	for _, s := range []string{found.Host, found.Port, found.Database} {
		if s != "" && !isLabel(s) {
			return t
		}
	}
	if found.Port != "" && !isDigits(found.Port) {
		return t
	}
	t.Host, t.Port, t.Database = found.Host, found.Port, found.Database
	return t
}

// isLabel reports whether s may be shown as a name. It refuses the characters by
// which an unknown syntax would separate a password.
func isLabel(s string) bool {
	return s != "" && len(s) <= MaxName && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) &&
		!strings.ContainsAny(s[1:], "@") && !strings.ContainsAny(s, `=;&?"'`)
}

var sqliteFile = regexp.MustCompile(`(?i)\.(db|db3|sqlite|sqlite3)$`)

// System returns OpenTelemetry's db.system.name for a driver of that name, or under
// a name that tells nothing for the form of the DSN: postgresql, mysql, sqlite or
// other_sql.
func System(driverName, dsn string) string {
	name := strings.ToLower(driverName)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) })
	}
	switch {
	case has("postgres", "pgx") || name == "pq":
		return "postgresql"
	case has("mysql", "mariadb"):
		return "mysql"
	case has("sqlite"):
		return "sqlite"
	}

	if parts := Split(dsn); parts.keywords || parts.separator == ";" {
		for _, s := range parts.Settings {
			if parts.keywords && slices.Contains([]string{"host", "hostaddr", "dbname", "sslmode"}, s.Name) {
				return "postgresql"
			}
		}
		return "other_sql"
	}
	switch scheme := urlScheme(dsn); {
	case scheme == "postgres" || scheme == "postgresql":
		return "postgresql"
	case scheme == "mysql" || scheme == "mariadb":
		return "mysql"
	case scheme != "" && scheme != "file":
		return "other_sql"
	}
	path, _, _ := strings.Cut(dsn, "?")
	switch {
	case mysqlForm.MatchString(dsn):
		return "mysql"
	case strings.HasPrefix(strings.ToLower(dsn), "file:"), path == ":memory:", sqliteFile.MatchString(path):
		return "sqlite"
	}
	return "other_sql"
}
