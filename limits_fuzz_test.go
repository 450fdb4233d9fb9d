package lifeguard

import (
	"net/url"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/dsn"
)

// What is not lifeguard's passes as it is, and whatever is taken gives a valid configuration.
func FuzzParseDSN(f *testing.F) {
	for _, text := range []string{
		"", "?", "postgres://u:p@h/db?connection_limit=7&x#f", "host=h password='a b' connection_limit = '7' x=1",
		"u:p?w@tcp(h)/db?a=b", "file:a.db?cache=shared", "postgres://u:p@x?y@h/db", "connection_limt=1",
		"connection%5Flimit=2", "?connection_limit=%zz", "pool_timeout=2 pool_timeout=3", "postgres://[::1]/?pool_name=a%0A",
		"server=h;user id=u;connection_limit=7", "password=a;server=h;trace=all",
	} {
		f.Add(text, "p?w")
	}
	for _, pw := range []string{
		"p?connection_limit=9&x", "p&connection_limit=seventeen&", "p@w?connection_limit=9", "p?connection_limt=9", "p w'\"\\;%#",
	} {
		f.Add("postgres://h/db?a=b&c", pw)
	}
	f.Fuzz(func(t *testing.T, text, pw string) {
		cfg, rest, err := ParseDSN(text, DefaultConfig())
		ours, misspelt := false, false
		for _, s := range dsn.Split(text).Settings {
			own := parameterNamed(s.Name) != nil
			ours = ours || own
			misspelt = misspelt || !own && dsn.Misspelt(s.Name, parameterNames()) != ""
		}
		switch {
		case err != nil && !ours && !misspelt:
			t.Fatalf("%q: %v", text, err)
		case err == nil && misspelt:
			t.Fatalf("%q: a misspelt name is passed on", text)
		case err == nil && !ours && rest != text:
			t.Fatalf("%q became %q", text, rest)
		case err == nil && !ours && cfg != DefaultConfig():
			t.Fatalf("%q changed the configuration to %+v", text, cfg)
		case err == nil && len(rest) > len(text):
			t.Fatalf("%q grew to %q", text, rest)
		}
		if err == nil && cfg.validate() != nil {
			t.Fatalf("%q gives an invalid configuration %+v", text, cfg)
		}
		checkPassword(t, pw)
	})
}

// checkPassword puts a password into all forms. No error shows it, and where the form can hold any password it survives.
func checkPassword(t *testing.T, pw string) {
	const mark = "Zy5ecretq"
	pw += mark + pw
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pw) + "'"
	for _, form := range []struct {
		front, joint string
		raw          bool // the form cannot hold any password
	}{
		{"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db", "?", false},
		{"postgres://h/db?password=" + url.QueryEscape(pw) + "&user=u", "&", false},
		{"host=h password=" + quoted + " user=u", " ", false},
		{"user:" + pw + "@tcp(h:3306)/db", "?", false},
		{"app.db?_auth_pass=" + url.QueryEscape(pw), "&", false},
		{`server=h;password="` + strings.ReplaceAll(pw, `"`, `""`) + `"`, ";", false},
		{"server=h;password=" + pw, ";", true},
		{"postgres://user:" + pw + "@h:5432/db", "?", true},
		{"postgres://user:" + pw + "@h", "?", true},
		{"sqlserver://user:" + pw + "@[::1]:5432,h2/db?x=y", "&", true},
	} {
		text := form.front + form.joint + "connection_limit=7"
		cfg, rest, err := ParseDSN(text, DefaultConfig())
		switch {
		case err != nil && (!form.raw || strings.Contains(err.Error(), mark)):
			t.Fatalf("%q: %v", text, err)
		case err == nil && !form.raw && (rest != form.front || cfg.ConnectionLimit != 7):
			t.Fatalf("%q: %q, connection_limit %d", text, rest, cfg.ConnectionLimit)
		case err == nil && !strings.Contains(rest, mark):
			t.Fatalf("%q: %q has lost the password", text, rest)
		}
		for _, wrong := range []string{"connection_limit=seven", "connection_limt=7", "pool_timeout=1" + form.joint + "pool_timeout=1"} {
			text := form.front + form.joint + wrong
			if _, _, err := ParseDSN(text, DefaultConfig()); err != nil && strings.Contains(err.Error(), mark) {
				t.Fatalf("%q: %v", text, err)
			}
		}
	}
}
