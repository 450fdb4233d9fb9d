package dsn

import (
	"cmp"
	"os"
	"os/user"
	"strings"
)

// postgresTarget follows lib/pq: the DSN, then the environment, then localhost, port
// 5432 and the user's own database. A service stands for a file that may say
// anything, so with one only the DSN counts.
func postgresTarget(driverName, dsn string) Target {
	given, ok := postgresSettings(driverName, dsn)
	if !ok {
		return Target{}
	}
	if given["service"] != "" || os.Getenv("PGSERVICE") != "" {
		return Target{Host: firstOf(given["host"]), Port: firstOf(given["port"]), Database: given["dbname"]}
	}
	host := cmp.Or(given["host"], given["hostaddr"], os.Getenv("PGHOST"), os.Getenv("PGHOSTADDR"))
	t := Target{
		Host: cmp.Or(firstOf(host), "localhost"),
		Port: cmp.Or(firstOf(cmp.Or(given["port"], os.Getenv("PGPORT"))), "5432"),
		Database: cmp.Or(given["dbname"], os.Getenv("PGDATABASE"), given["user"], os.Getenv("PGUSER"),
			os.Getenv("USER")),
	}
	if t.Database == "" {
		if u, err := user.Current(); err == nil {
			t.Database = u.Username
		}
	}
	return t
}

// postgresSettings returns the settings of a URL or a keyword string by their names
// in libpq. ok is false if dsn is neither, or broken.
func postgresSettings(driverName, dsn string) (given map[string]string, ok bool) {
	given = map[string]string{}
	var settings []Setting
	if urlScheme(dsn) != "" {
		shape := splitURL(dsn)
		user, t, ok := shape.target()
		if !ok {
			return nil, false
		}
		_, more, _ := strings.Cut(shape.hosts(), ",")
		if more != "" && t.Port == "" && !strings.Contains(strings.ToLower(driverName), "pgx") {
			// A port behind the last host belongs to that host in libpq, and to every
			// host in lib/pq.
			_, t.Port, _ = cutHost(more[strings.LastIndexByte(more, ',')+1:])
		}
		given["user"], given["host"], given["port"], given["dbname"] = user, t.Host, t.Port, t.Database
		settings = shape.parts.Settings
	} else {
		parts := splitKeywords(dsn)
		if parts.unread() != "" {
			return nil, false
		}
		settings = parts.Settings
	}
	for _, s := range settings {
		name := s.Name
		if name == "database" { // an alias in both drivers
			name = "dbname"
		}
		if s.Value != "" {
			given[name] = s.Value
		}
	}
	return given, true
}
