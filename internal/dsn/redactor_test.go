package dsn

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/lib/pq"
)

// A driver's error that shows the password, in whatever syntax the DSN has it, is
// withheld with everything it wraps.
func TestErrorsThatQuoteThePassword(t *testing.T) {
	for _, tt := range []struct{ dsn, secret string }{
		{"postgres://u:hunter2@h/db", "hunter2"},
		{"postgres://u:hunter2@h1,h2/db", "hunter2"},
		{"postgres://u:hu%3Anter2@h/db", "hu:nter2"},
		{"postgres://u:p%40ss%2Fword@h/db", "p@ss/word"},
		{"postgres://h/db?user=u&password=hunter2", "hunter2"},
		{"postgres://h/db?user=u&password=hun%26ter2", "hun&ter2"},
		{"postgres://h/db?user=u&pass%77ord=hunter2", "hunter2"},
		{"postgres://u@h/db?sslpassword=hunter2", "hunter2"},
		{"host=h password='hun ter2'", "hun ter2"},
		{`host=h password = 'hun\'ter2'`, "hun'ter2"},
		{`host=h password=hun\'ter2`, "hun'ter2"},
		{`host=h password=hun\ ter2 user=x`, "hun ter2"},
		{"host=h PASSWORD=hunter2", "hunter2"},
		{"u:hunter2@tcp(h)/db", "hunter2"},
		{"u:hun/te@r2@tcp(h)/db", "hun/te@r2"},
		{"u:hun:ter2@tcp(h)/db?x=y", "hun:ter2"},
		{"server=h;user id=sa;Password=hunter2;x=y", "hunter2"},
		{"server=h;user id=sa;pwd=hunter2", "hunter2"},
		{"file:x.db?_key=hunter2", "hunter2"},
		{"file:x.db?_auth_pass=hunter2&_auth_user=x", "hunter2"},
		{"postgres://db:db0@db0/db0", "db:db0@"},
		{"hunter2", "hunter2"},
		{"hunter2:x", "hunter2:x"},
		{"host=db0 user=u password=db0", "password=db0"},
		{"host=db0 user=u password='db0'", "password='db0'"},
		{"user id=u;password=hun ter2;server=h", "hun ter2"},
		{`server=h;user id=u;password="hun;ter""2"`, `hun;ter"2`},
		{`server=h;user id=u;password="hun;ter""2"`, `hun;ter""2`},
		{"odbc:server=h;password={hun;ter}}2}", "hun;ter}2"},
		{"server=db0;user id=db0;password=db0", "password=db0"},
		{"password=a hunter2 host=h", "hunter2"},
		{"password=a host=h 'hunter2", "hunter2"},
		{"postgres://u:a\nhunter2@h/db", "hunter2"},
		{"postgres://u:hun\nter2@h/db", `hun\nter2`},
		{"host=h password='hun\nter2'", `hun\nter2`},
	} {
		r := NewRedactor(tt.dsn)
		for _, told := range []error{
			fmt.Errorf("cannot log in with %s", tt.secret),
			&pq.Error{Severity: "FATAL", Code: "28P01", Message: "no such " + tt.secret},
			fmt.Errorf("wrapped: %w", &url.Error{Op: "parse", URL: tt.dsn, Err: errors.New(tt.secret)}),
			fmt.Errorf("cannot read %q", tt.dsn),
		} {
			err := r.Error(told)
			if err == nil || strings.Contains(err.Error(), tt.secret) || errors.Unwrap(err) != nil {
				t.Errorf("%q, %q: %v", tt.dsn, told, err)
			}
		}
	}
}

// An error that names something else is handed on as it is, also where the password
// happens to be the same word.
func TestErrorsThatQuoteNoPassword(t *testing.T) {
	for _, tt := range []struct{ dsn, text string }{
		{"postgres://postgres:postgres@postgres/postgres", `password authentication failed for user "postgres"`},
		{"postgres://app:shop@h/shop", `database "shop" does not exist`},
		{"user=app password=app host=h", `role "app" does not exist`},
		{"root:root@tcp(db)/shop", `Access denied for user 'root'@'db'`},
		{"postgres://u:hunter2@h/db?sslkey=/etc/key.pem&passfile=/etc/pgpass", "cannot read /etc/key.pem and /etc/pgpass"},
		{"server=db;user id=sa;password=sa", "Login failed for user 'sa' at db"},
		{"host=h password='app' user=app", "no role 'app'"},
		{"", "anything"},
	} {
		told := &pq.Error{Code: "28000", Message: tt.text}
		if err := NewRedactor(tt.dsn).Error(told); err != error(told) {
			t.Errorf("%q, %q: %v", tt.dsn, tt.text, err)
		}
	}
	if err := NewRedactor("postgres://u:secret@h/db").Error(nil); err != nil {
		t.Error(err)
	}
}

// What lib/pq says of a malformed DSN is replaced by the kind of the mistake.
func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ dsn, kind string }{
		{"postgres://u:secret@h/db\n", "a control character"},
		{"postgres://u:sec\x00ret@h/db", "a control character"},
		{"postgres://u:secret%@h/db", "a percent sign"},
		{"postgres://u:secret%zz@h/db", "a percent sign"},
		{"postgres://u:secret@h/d%b", "a percent sign"},
		{"postgres://u:secret @h/db", "a character in its user name or password"},
		{"postgres://u:sec<ret@h/db", "a character in its user name or password"},
		{"postgres://u:sec/ret@h/db", "a character in its user name or password"},
		{"postgres://u:sec?ret@h/db", "a character in its user name or password"},
		{"postgres://u:sec#ret@h/db", "a character in its user name or password"},
		{"postgres://u:secret@h:port/db", "a port that is not a number"},
		{"postgres://u:secret", "a port that is not a number"},
		{"postgres://u:secret@[::1/db", "an address with [ and without ]"},
		{"postgres://u:secret@h h/db", "a character in its host"},
		{"postgres://u:secret@%2Frun%2Fpg/db", "an escape in its host"},
		{" postgres://u:secret@h/db", "white space or quotes before its scheme"},
		{`"postgres://u:secret@h/db"`, "white space or quotes before its scheme"},
		{"host=h password=my secret user=u", `a word without "="`},
		{"host=h password=my secret", `a word without "="`},
	} {
		_, told := pq.NewConfig(tt.dsn)
		if told == nil {
			t.Errorf("lib/pq takes %q", tt.dsn)
			continue
		}
		err := NewRedactor(tt.dsn).Error(told)
		if text := err.Error(); !strings.Contains(text, "withheld because it quotes the DSN, which has "+tt.kind) {
			t.Errorf("%q: %v, want %s", tt.dsn, err, tt.kind)
		}
		if strings.Contains(err.Error(), "sec") {
			t.Errorf("%q: %v shows the password", tt.dsn, err)
		}
	}
}

// DSNs without a mistake have none told.
func TestNoMistakes(t *testing.T) {
	for _, dsn := range []string{
		"", "postgres://u:p%20w@h/db", "postgres://u:p@h1:1,h2:2/db?x=%20", "postgres:///db?host=/run/pg", "postgres://",
		"postgres://u:p@[fe80::1%25eth0]:5432/db", "mysql://u:p@tcp(h:3306)/db", "sqlserver://sa:p@h:1433?database=x",
		"host=h password='a b'", "server=h;user id=u;password=p w", "u:p%w\n@tcp(h)/db", "file:a b.db", ":memory:",
		"postgres://u-._~!$&'()*+,;=:p@w@h/db",
	} {
		if kind := mistakeIn(dsn); kind != "" {
			t.Errorf("%q has %s", dsn, kind)
		}
	}
}

// Whatever net/url and lib/pq say of a DSN, the password is not in it.
func FuzzRedactor(f *testing.F) {
	for _, pw := range rawPasswords {
		f.Add(pw)
	}
	f.Add("\x00")
	f.Add("%zz")
	f.Fuzz(func(t *testing.T, pw string) {
		for _, form := range passwordForms(pw + mark + pw) {
			if Split(form.front).separator == ";" || urlScheme(form.front) == "" && !keywordStart.MatchString(form.front) {
				continue // no DSN of either
			}
			r := NewRedactor(form.front)
			_, parseErr := url.Parse(form.front)
			_, driverErr := pq.NewConfig(form.front)
			for _, told := range []error{parseErr, driverErr} {
				if err := r.Error(told); err != nil && strings.Contains(err.Error(), mark) {
					t.Fatalf("%q: %v", form.front, err)
				}
			}
		}
	})
}
