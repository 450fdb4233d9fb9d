package dsn

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"
)

func FuzzSplit(f *testing.F) {
	for _, dsn := range []string{
		"", "?", "postgres://u:p@h/db?sslmode=disable", "postgres://u:p@h/db?connection_limit=7&x#f",
		"postgres://u:p?w@h/db?&&", "host=h password='a b' connection_limit = '7' x=1", "a='1'pool_timeout='2'b=2",
		"u:p?w@tcp(h)/db?a=b", "file:a.db?cache=shared", ":memory:", "postgres://u:p@x?y@h/db", "connection_limt=1",
		"connection%5Flimit=2", "A://:0?@/@", "A=", "A='0'0", "A=''=", "A=0  =", `A0=\`, "?connection_limit=%zz",
		"server=h;user id=u;password=p;connection_limit=7", `a=1;server="b;c`, "odbc:server=h;p={a;b};;", "password=a;server=h", "x=;server=;",
		"pool_timeout=2 pool_timeout=3", "postgres://[::1]/?pool_name=a%0A",
	} {
		f.Add(dsn, "p?w", uint8(1))
	}
	for _, pw := range rawPasswords {
		f.Add("postgres://h/db?a=b&c", pw, uint8(2))
	}
	f.Fuzz(func(t *testing.T, dsn, pw string, at uint8) {
		rest, taken := take(dsn)
		switch {
		case len(taken) == 0 && rest != dsn:
			t.Fatalf("%q became %q", dsn, rest)
		case len(rest) > len(dsn):
			t.Fatalf("%q grew to %q", dsn, rest)
		}
		if len(taken) == 0 {
			with := putIn(dsn, "pool_timeout=7", int(at))
			rest, taken := take(with)
			doubtful := len(taken) == 0 || taken[0].Doubtful
			switch {
			case Split(with).Ambiguous && doubtful:
				// It stands in what may be a password.
			case rest != dsn || doubtful || len(taken) > 1 || taken[0].Value != "7":
				t.Fatalf("%q became %q without %+v; want %q", with, rest, taken, dsn)
			}
		}
		checkPassword(t, pw)
	})
}

// lib/pq reads the driver's DSN as it reads the whole one, less our parameters.
func FuzzDriverAgrees(f *testing.F) {
	for _, pw := range rawPasswords {
		f.Add("postgres://user:" + url.QueryEscape(pw) + "@h:5432/db?connection_limit=7&a=b")
		f.Add("password='" + strings.ReplaceAll(pw, "'", `\'`) + "' connection_limit=7 x=1")
	}
	f.Add("connection_limit=7 host='h'a=1 pool_timeout='2'b=3")
	f.Add("postgres://h/?connection_limit=7&&a=b&pool_name=x#f")
	f.Fuzz(func(t *testing.T, dsn string) {
		isURL := strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
		if _, ok := splitSemicolons(dsn); ok {
			return
		}
		_, query, _ := strings.Cut(dsn, "?")
		if !isURL && !keywordStart.MatchString(dsn) || isURL && strings.Contains(query, "@") ||
			strings.IndexFunc(dsn, func(r rune) bool { return r > 0x7f }) >= 0 {
			return // read in another way on purpose: see splitURL and space
		}
		rest, taken := take(dsn)
		if slices.ContainsFunc(taken, func(s Setting) bool { return s.Doubtful }) {
			return
		}
		want, err := pq.NewConfig(dsn)
		if err != nil {
			return
		}
		got, err := pq.NewConfig(rest)
		if err != nil {
			t.Fatalf("%q became %q: %v", dsn, rest, err)
		}
		for _, name := range ours {
			if _, left := got.Runtime[name]; left {
				t.Fatalf("%q: %s is left in %q", dsn, name, rest)
			}
			delete(want.Runtime, name)
		}
		if len(want.Runtime)+len(got.Runtime) == 0 {
			want.Runtime, got.Runtime = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q, which lib/pq reads as\n%+v, not\n%+v", dsn, rest, got, want)
		}
	})
}

// putIn adds a parameter to the nth of the places where the DSN can have one.
func putIn(dsn, text string, n int) string {
	parts := Split(dsn)
	if parts.keywords {
		n %= len(parts.Settings) + 1
		if n > 0 {
			before := parts.Settings[n-1]
			after := dsn[before.to:]
			if before.Value != "" && dsn[before.to-1] != '\\' && (after == "" || strings.TrimLeft(after, space) != after) {
				return dsn[:before.to] + " " + text + after
			}
			// Behind "name=" it would be the value, a backslash would take its space,
			// and something else may follow a quote without space.
		}
		first := strings.TrimLeft(dsn, space)
		return dsn[:len(dsn)-len(first)] + text + " " + first
	}
	if parts.separator == ";" {
		// Not at the end, which an open quote may be before.
		from := parts.Settings[n%len(parts.Settings)].from
		return dsn[:from] + text + ";" + dsn[from:]
	}
	if parts.head < 0 {
		return dsn[:parts.end] + "?" + text + dsn[parts.end:]
	}
	n %= len(parts.Settings) + 1
	if n == len(parts.Settings) {
		return dsn[:parts.end] + "&" + text + dsn[parts.end:]
	}
	from := parts.Settings[n].from
	return dsn[:from] + text + "&" + dsn[from:]
}

// mark is a part of every password that the fuzz tests make.
const mark = "Zy5ecretq"

// checkPassword puts a password into all forms. Where the form has a way to write any
// password, or the driver reads it unencoded, it survives. A URL with a password that
// is not encoded is doubtful or passed on whole.
func checkPassword(t *testing.T, pw string) {
	pw += mark + pw
	for _, form := range passwordForms(pw) {
		dsn := form.front + form.joint + "connection_limit=7"
		rest, taken := take(dsn)
		switch {
		case slices.ContainsFunc(taken, func(s Setting) bool { return s.Doubtful }):
			if !form.raw {
				t.Fatalf("%q is doubtful", dsn)
			}
		case !form.raw && (rest != form.front || len(taken) != 1 || taken[0].Value != "7"):
			t.Fatalf("%q became %q without %+v", dsn, rest, taken)
		case !strings.Contains(rest, mark):
			t.Fatalf("%q: %q has lost the password", dsn, rest)
		}
	}
}

// passwordForm is a DSN with a password, and the separator before a further setting.
type passwordForm struct {
	front, joint string
	raw          bool // the form has no way to write this password
}

func passwordForms(pw string) []passwordForm {
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pw) + "'"
	doubled := `"` + strings.ReplaceAll(pw, `"`, `""`) + `"`
	return []passwordForm{
		{"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db", "?", false},
		{"postgres://h/db?password=" + url.QueryEscape(pw) + "&user=u", "&", false},
		{"host=h password=" + quoted + " user=u", " ", false},
		{"user=u password=" + quoted, " ", false},
		{"password = " + quoted, " ", false},
		{"user:" + pw + "@tcp(h:3306)/db", "?", false},
		{"user:" + pw + "@unix(/tmp/mysql.sock)/", "?", false},
		{"app.db?_auth_pass=" + url.QueryEscape(pw), "&", false},
		{"server=h;user id=u;password=" + doubled, ";", false},
		{"user id=u;password=" + doubled + ";server=h", ";", false},
		{"odbc:server=h;password={" + strings.ReplaceAll(pw, "}", "}}") + "}", ";", false},
		{"postgres://user:" + pw + "@h:5432/db", "?", true},
		{"postgres://user:" + pw + "@h", "?", true},
		{"sqlserver://user:" + pw + "@[::1]:5432,h2/db?x=y", "&", true},
	}
}
