package dsn

import (
	"regexp"
	"slices"
	"strings"
)

var (
	semicolonName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_ ]*$`)

	// semicolonNames are unknown to PostgreSQL and its drivers.
	semicolonNames = []string{
		"server", "data source", "addr", "address", "network address", "hostname", "driver", "provider", "dsn",
		"user id", "uid", "pwd", "initial catalog", "app", "app name", "application name",
	}
	// keywordNames are unknown to the drivers that take semicolons.
	keywordNames = []string{"host", "hostaddr", "dbname", "service", "options", "application_name", "sslmode"}
)

// serverFirst is the remedy for a DSN whose password may have semicolons.
const serverFirst = `write server= before password=, and a value with a ";", "'" or "{" in double quotes`

// splitSemicolons finds the settings of a DSN that separates them by semicolons:
// server=h;user id=u;password=p of ADO, and the same behind "odbc:". ok is false
// if dsn is none. It reads as go-mssqldb does: a semicolon between double quotes
// separates nothing, and in the ODBC form none between braces.
//
// A libpq string can have semicolons in its values. The first name that only one
// of the two forms has decides, and no setting before it may have a character of
// another setting of libpq's ("=", "'"). So no text of a libpq password is taken
// for a name, unless the password comes first and without quotes. Then everything
// is doubtful.
func splitSemicolons(dsn string) (parts Parts, ok bool) {
	rest, odbc := strings.CutPrefix(dsn, "odbc:")
	if !odbc && !strings.Contains(dsn, ";") {
		return Parts{}, false
	}
	start := len(dsn) - len(rest)
	parts = Parts{dsn: dsn, separator: ";", head: start, first: start, end: len(dsn)}
	known, doubtful := odbc, false
	for from := start; from <= len(dsn); {
		to := settingEnd(dsn, from, odbc)
		name, value, found := strings.Cut(dsn[from:to], "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !known && name != "" {
			lower := strings.ToLower(name)
			if !found || !semicolonName.MatchString(name) || slices.Contains(keywordNames, lower) {
				return Parts{}, false
			}
			known = slices.Contains(semicolonNames, lower)
			if !known && strings.ContainsAny(value, "='") {
				return Parts{}, false
			}
			doubtful = doubtful || lower == "password"
		}
		parts.Settings = append(parts.Settings, Setting{
			Name: name, Value: unquoted(value, odbc), Doubtful: doubtful, from: from, to: to,
		})
		doubtful = doubtful || !odbc && opensQuote(value)
		from = to + 1
	}
	if doubtful {
		parts.Ambiguous, parts.Remedy = true, serverFirst
	}
	return parts, known
}

// settingEnd returns the place of the semicolon behind the setting that starts at
// from, or the length of dsn.
func settingEnd(dsn string, from int, odbc bool) int {
	if !odbc {
		quoted := false
		for i := from; i < len(dsn); i++ {
			if dsn[i] == '"' {
				quoted = !quoted // twice for a doubled one, which stands for itself
			}
			if dsn[i] == ';' && !quoted {
				return i
			}
		}
		return len(dsn)
	}
	i := indexAny(dsn, from, "=;")
	if i < len(dsn) && dsn[i] == '=' && strings.HasPrefix(strings.TrimSpace(dsn[i+1:]), "{") {
		for i = indexAny(dsn, i, "}"); strings.HasPrefix(dsn[i:], "}}"); {
			i = indexAny(dsn, i+2, "}")
		}
	}
	return indexAny(dsn, i, ";")
}

// unquoted returns a value without the quotes or braces around it.
func unquoted(value string, odbc bool) string {
	open, shut := `"`, `"`
	if odbc {
		open, shut = "{", "}"
	}
	if len(value) < 2 || !strings.HasPrefix(value, open) || !strings.HasSuffix(value, shut) {
		return value
	}
	return strings.ReplaceAll(value[1:len(value)-1], shut+shut, shut)
}

// opensQuote reports whether another driver than go-mssqldb may read past the
// semicolon behind value: a quote or brace begins it and none ends it.
func opensQuote(value string) bool {
	return strings.HasPrefix(value, "'") && (len(value) == 1 || !strings.HasSuffix(value, "'")) ||
		strings.HasPrefix(value, "{") && !strings.HasSuffix(value, "}")
}
