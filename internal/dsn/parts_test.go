package dsn

import (
	"net/url"
	"strings"
	"testing"
)

// ours are the names that these tests take out.
var ours = []string{"connection_limit", "pool_timeout", "pool_name"}

// take returns the DSN without the settings named in ours, and those settings.
func take(text string) (rest string, taken []Setting) {
	parts := Split(text)
	own := make([]bool, len(parts.Settings))
	for i, s := range parts.Settings {
		for _, name := range ours {
			if s.Name == name {
				own[i], taken = true, append(taken, s)
			}
		}
	}
	return parts.Without(own), taken
}

// Each DSN carries connection_limit=7 once, or none of ours.
func TestForms(t *testing.T) {
	for _, tt := range []struct{ dsn, want string }{
		// nothing to take out
		{"", ""},
		{"?", "?"},
		{"postgres://u:p@h/db", "postgres://u:p@h/db"},
		{"postgres://u:p@h/db?", "postgres://u:p@h/db?"},
		{"postgres://u:p@h/db?&&sslmode=disable&#f", "postgres://u:p@h/db?&&sslmode=disable&#f"},
		{" host = h  password = 'a b' ", " host = h  password = 'a b' "},
		{"user:p@tcp(h)/db?a=b&&", "user:p@tcp(h)/db?a=b&&"},
		{"some name without a form", "some name without a form"},
		{"\x00\xff?\x00", "\x00\xff?\x00"},

		// URLs
		{"postgres://u:p@h/db?connection_limit=7", "postgres://u:p@h/db"},
		{"postgresql://u:p@h:5432/db?connection_limit=7&sslmode=disable", "postgresql://u:p@h:5432/db?sslmode=disable"},
		{"postgres://u:p@h/db?sslmode=disable&connection_limit=7", "postgres://u:p@h/db?sslmode=disable"},
		{"postgres://h/db?b=2&connection_limit=7&a=1", "postgres://h/db?b=2&a=1"},
		{"postgres://h/db?&connection_limit=7", "postgres://h/db?"},
		{"postgres://h/db?a=%20&&connection_limit=7&&b=+;c", "postgres://h/db?a=%20&&&b=+;c"},
		{"postgres://h/db?connection%5Flimit=%37", "postgres://h/db"},
		{"postgres://h/db?connection_limit=7#?fragment&a=b", "postgres://h/db#?fragment&a=b"},
		{"postgres://h/db?a=b#connection_limit=x", "postgres://h/db?a=b#connection_limit=x"},
		{"postgres://?connection_limit=7", "postgres://"},
		{"postgres:///db?host=/tmp&connection_limit=7", "postgres:///db?host=/tmp"},
		{"postgres://u:p@[::1]:5432,[fe80::1%25eth0]/db?connection_limit=7", "postgres://u:p@[::1]:5432,[fe80::1%25eth0]/db"},
		{"postgres://h1:1,h2:2/db?connection_limit=7", "postgres://h1:1,h2:2/db"},
		{"postgres://%2Ftmp/db?connection_limit=7", "postgres://%2Ftmp/db"},
		{"postgres://h/db?options=-c%20x%3D1&connection_limit=7&options=a?b", "postgres://h/db?options=-c%20x%3D1&options=a?b"},
		{"postgres://h/db?application_name=a@b&connection_limit=7", "postgres://h/db?application_name=a@b"},
		{"postgres://h/db?connection_limit=7&application_name=a@b", "postgres://h/db?application_name=a@b"},
		{"postgres://u:p@h?connection_limit=7&application_name=a@b", "postgres://u:p@h?application_name=a@b"},
		{"postgres://h:5432?connection_limit=7&application_name=a@b", "postgres://h:5432?application_name=a@b"},
		{"postgres://u:p@h/db?application_name=a@b/c&connection_limit=7", "postgres://u:p@h/db?application_name=a@b/c"},
		{"postgres://h/db?connection_limit=7&password=x@tcp(h)", "postgres://h/db?password=x@tcp(h)"},
		{"postgres://h/db?password=x@tcp(h)/y&connection_limit=7", "postgres://h/db?password=x@tcp(h)/y"},
		{"mysql://u:p@tcp(h:3306)/db?connection_limit=7&parseTime=true", "mysql://u:p@tcp(h:3306)/db?parseTime=true"},
		{"sqlserver://sa:p@h:1433?database=x&connection_limit=7", "sqlserver://sa:p@h:1433?database=x"},
		{"clickhouse://h:9000/default?connection_limit=7", "clickhouse://h:9000/default"},

		// keywords and values
		{"connection_limit=7", ""},
		{" connection_limit = 7 ", " "},
		{"host=h connection_limit=7", "host=h"},
		{"connection_limit=7 host=h", "host=h"},
		{"host=h connection_limit=7 dbname=x", "host=h dbname=x"},
		{"host=h  connection_limit\t=\n'7'  dbname=x ", "host=h  dbname=x "},
		{`host=h connection_limit=\7`, "host=h"},
		{"host='h'connection_limit='7'dbname=x", "host='h'dbname=x"},
		{"host=h connection_limit='7'dbname=x", "host=h dbname=x"},
		{"host='h'connection_limit=7 dbname=x", "host='h' dbname=x"},
		{"password='a connection_limit=9' connection_limit=7", "password='a connection_limit=9'"},
		{`password='it\'s connection_limit=9' connection_limit=7`, `password='it\'s connection_limit=9'`},
		{`password='\\' connection_limit=7`, `password='\\'`},
		{`password=a\ connection_limit=9 connection_limit=7`, `password=a\ connection_limit=9`},
		{"password='x@tcp(h)/y?connection_limit=9' connection_limit=7", "password='x@tcp(h)/y?connection_limit=9'"},
		{"password= connection_limit=9 connection_limit=7", "password= connection_limit=9"},
		{"password=a?connection_limit=9&b connection_limit=7", "password=a?connection_limit=9&b"},
		{"password=a\u00a0connection_limit=9 connection_limit=7", "password=a\u00a0connection_limit=9"},
		{"password=a'b connection_limit=7 host=h'", "password=a'b host=h'"},
		{"password='' connection_limit=7", "password=''"},
		{"host=h connection_limit=7 options='-c geqo=off' user=", "host=h options='-c geqo=off' user="},
		{"host=h connection_limit=7 password='open", "host=h password='open"},
		{"connection_limit=7 host=h garbage", "host=h garbage"},
		{"password='open connection_limit=9", "password='open connection_limit=9"},
		{"host=h garbage connection_limit=9", "host=h garbage connection_limit=9"},

		// MySQL
		{"user:pass@tcp(h:3306)/db?connection_limit=7", "user:pass@tcp(h:3306)/db"},
		{"user:pass@tcp(h:3306)/db?parseTime=true&connection_limit=7&loc=Local", "user:pass@tcp(h:3306)/db?parseTime=true&loc=Local"},
		{"user:pa?ss@tcp(h:3306)/db?connection_limit=7", "user:pa?ss@tcp(h:3306)/db"},
		{"user:pa?connection_limit=9&x@tcp(h:3306)/db?connection_limit=7", "user:pa?connection_limit=9&x@tcp(h:3306)/db"},
		{"user://p?w#@tcp(h)/db?connection_limit=7", "user://p?w#@tcp(h)/db"},
		{"user:p@s/s?w@unix(/tmp/my.sock)/db?connection_limit=7", "user:p@s/s?w@unix(/tmp/my.sock)/db"},
		{"user:p?w@unix(@abstract)/db?connection_limit=7", "user:p?w@unix(@abstract)/db"},
		{"user:p@((?connection_limit=9&)/db?connection_limit=7", "user:p@((?connection_limit=9&)/db"},
		{"user:p?w@/db?connection_limit=7", "user:p?w@/db"},
		{"user:p?w@tcp/db?connection_limit=7", "user:p?w@tcp/db"},
		{":p?w@tcp(h)/?connection_limit=7", ":p?w@tcp(h)/"},
		{"user@/db?connection_limit=7", "user@/db"},
		{"/db?connection_limit=7", "/db"},
		{"/?connection_limit=7", "/"},
		{"unix(/tmp/a?b.sock)/db?connection_limit=7", "unix(/tmp/a?b.sock)/db"},
		{"tcp([::1]:3306)/db?connection_limit=7", "tcp([::1]:3306)/db"},
		{"user:p@tcp(h)/db?connectionAttributes=a:b@c&connection_limit=7", "user:p@tcp(h)/db?connectionAttributes=a:b@c"},
		{"user:p@tcp(h)/db?connection_limit=7&connectionAttributes=a:b@c", "user:p@tcp(h)/db?connectionAttributes=a:b@c"},
		{"user:p?w@tcp(h)/db?loc=Europe/Berlin&connection_limit=7", "user:p?w@tcp(h)/db?loc=Europe/Berlin"},

		// other drivers' own forms
		{"user:p?w@h:3050/data/shop.fdb?connection_limit=7", "user:p?w@h:3050/data/shop.fdb"},
		{"user:p?connection_limit=9@h:1521", "user:p?connection_limit=9@h:1521"},
		{"x://user:p?connection_limit=9@h=1", "x://user:p?connection_limit=9@h=1"},
		{"x://user:p?connection_limit=9@h=1/db?connection_limit=7", "x://user:p?connection_limit=9@h=1/db"},
		{"a(b?connection_limit=7", "a(b"},
		{"h:5432/db?connection_limit=7&email=a@b", "h:5432/db?email=a@b"},
		{"sqlmock_db_0?connection_limit=7", "sqlmock_db_0"},
		{"?connection_limit=7", ""},

		// SQLite
		{"app.db?connection_limit=7", "app.db"},
		{"/var/lib/app.db?_pragma=busy_timeout(5000)&connection_limit=7", "/var/lib/app.db?_pragma=busy_timeout(5000)"},
		{"app.db?_pragma=x('a?b')&connection_limit=7", "app.db?_pragma=x('a?b')"},
		{"app.db?_loc=Europe/Berlin&connection_limit=7", "app.db?_loc=Europe/Berlin"},
		{"app.db?connection_limit=7&_auth&_auth_user=a@b", "app.db?_auth&_auth_user=a@b"},
		{"app#1.db?connection_limit=7&_auth_pass=x#y", "app#1.db?_auth_pass=x#y"},
		{":memory:?connection_limit=7&_auth_user=a@b/c", ":memory:?_auth_user=a@b/c"},
		{"file::memory:?cache=shared&connection_limit=7", "file::memory:?cache=shared"},
		{"file:app.db?connection_limit=7&_auth_user=a@b/c", "file:app.db?_auth_user=a@b/c"},
		{"file:///data/a@b/app.db?mode=ro&connection_limit=7", "file:///data/a@b/app.db?mode=ro"},
		{"FILE:///data/app.db?connection_limit=7&vfs=a@b/c", "FILE:///data/app.db?vfs=a@b/c"},
		{`C:\data\app.db?connection_limit=7&_auth_user=a@b/c`, `C:\data\app.db?_auth_user=a@b/c`},

		// semicolons
		{"server=h;user id=u;password=p;connection_limit=7", "server=h;user id=u;password=p"},
		{"server=h;connection_limit=7;user id=u;password=p;", "server=h;user id=u;password=p;"},
		{"connection_limit=7;server=h", "server=h"},
		{"connection_limit=7;Server=h\\sql,1433;", "Server=h\\sql,1433;"},
		{"Server = h ; connection_limit = 7 ;;Password = p x ", "Server = h ;;Password = p x "},
		{"user id=u;password=a=b'c connection_limit=9;connection_limit=7;server=h", "user id=u;password=a=b'c connection_limit=9;server=h"},
		{"database=d;server=h;password=p;connection_limit=7", "database=d;server=h;password=p"},
		{"encrypt=disable;Data Source=h;connection_limit=7", "encrypt=disable;Data Source=h"},
		{"UID=u;PWD=p;HOSTNAME=h;connection_limit=7", "UID=u;PWD=p;HOSTNAME=h"},
		{`server=h;password="a;connection_limit=9";connection_limit=7`, `server=h;password="a;connection_limit=9"`},
		{`server=h;password="a"";connection_limit=9";connection_limit=7`, `server=h;password="a"";connection_limit=9"`},
		{`server=h;connection_limit=7;password="open;connection_limit=9`, `server=h;password="open;connection_limit=9`},
		{`server=h;connection_limit="7";a`, `server=h;a`},
		{"server=h;password=p?connection_limit=9&x;connection_limit=7", "server=h;password=p?connection_limit=9&x"},
		{"odbc:server=h;user id=u;password={a;connection_limit=9};connection_limit=7", "odbc:server=h;user id=u;password={a;connection_limit=9}"},
		{"odbc:server=h;password= {a}};connection_limit=9}x;connection_limit={7}", "odbc:server=h;password= {a}};connection_limit=9}x"},
		{"odbc:connection_limit=7;server=h;password=a\"b", "odbc:server=h;password=a\"b"},
		{"odbc:connection_limit=7", "odbc:"},

		// keywords whose values have semicolons
		{"password=a;b connection_limit=7 host=h", "password=a;b host=h"},
		{"host=h;server=x;connection_limit=9 connection_limit=7", "host=h;server=x;connection_limit=9"},
		{"user=u password=a;server=h;connection_limit=9 connection_limit=7", "user=u password=a;server=h;connection_limit=9"},
		{"user=u password='a;server=h;connection_limit=9' connection_limit=7", "user=u password='a;server=h;connection_limit=9'"},
		{"password='a;server=h;connection_limit=9' connection_limit=7", "password='a;server=h;connection_limit=9'"},
		{"password = 'a;server=h;connection_limit=9' connection_limit=7", "password = 'a;server=h;connection_limit=9'"},
		{"database=d user=u;user id=x connection_limit=7", "database=d user=u;user id=x"},
	} {
		rest, taken := take(tt.dsn)
		want := 0
		if tt.dsn != tt.want {
			want = 1
		}
		if rest != tt.want || len(taken) != want {
			t.Errorf("%q became %q without %d settings; want %q", tt.dsn, rest, len(taken), tt.want)
			continue
		}
		for _, s := range taken {
			if s.Value != "7" || s.Malformed || s.Doubtful {
				t.Errorf("%q: %+v", tt.dsn, s)
			}
		}
	}
}

// Settings that may be a part of the password are marked, with a remedy.
func TestDoubtful(t *testing.T) {
	for _, tt := range []struct{ dsn, remedy string }{
		{"postgres://u:p@secret/x?connection_limit=9@h/db", percentEncode},
		{"postgres://u:p@secret/x?connection_limit=7&y@h:5432/db?a=b", percentEncode},
		{"postgres://u:12/secret?connection_limit=9@h/db", percentEncode},
		{"postgres://u:p@h/db?connection_limit=9&options=secret@b/c", percentEncode},
		{"password=secret;server=h;connection_limit=9", serverFirst},
		{"password=secret;connection_limit=9;server=h", serverFirst},
		{"port=1;password=my secret;server=h;user id=u;connection_limit=9", serverFirst},
		{"server=h;password='secret;connection_limit=9'", serverFirst},
		{"server=h;password={secret;connection_limit=9}", serverFirst},
		{"server=h;password=';connection_limit=9;'", serverFirst},
	} {
		parts := Split(tt.dsn)
		_, taken := take(tt.dsn)
		if len(taken) != 1 || !taken[0].Doubtful || !parts.Ambiguous || parts.Remedy != tt.remedy {
			t.Errorf("%q: %+v", tt.dsn, parts)
		}
	}
	for _, dsn := range []string{
		"server=h;password='secret';connection_limit=9", "server=h;password={secret};connection_limit=9",
		"connection_limit=9;password=secret;server=h", "user id=u;password=secret;server=h;connection_limit=9",
	} {
		if _, taken := take(dsn); len(taken) != 1 || taken[0].Doubtful {
			t.Errorf("%q: %+v", dsn, taken)
		}
	}
}

func TestMalformedValues(t *testing.T) {
	parts := Split("postgres://h/db?a=%zz&%zz=b&c=%20")
	for i, want := range []Setting{{Name: "a", Malformed: true}, {Name: "%zz", Value: "b"}, {Name: "c", Value: " "}} {
		if got := parts.Settings[i]; got.Name != want.Name || got.Value != want.Value || got.Malformed != want.Malformed {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// rawPasswords are what people write without encoding it.
var rawPasswords = []string{
	"p?w", "?", "p&w", "p=w", "p?a=b", "p?a=b&c=d", "p'w", `p"w`, `p\w`, "p;w", "p w", "p:w", "p%w", "p+w", "p#w",
	"connection_limit=9", "?connection_limit=9", "p?connection_limit=9", "p?x=1&connection_limit=9",
	"p?connection_limit=9&x", "p&connection_limit=9&", "12?connection_limit=9", "p?connection_limt=9",
	"p?connection_limit=seventeen", "p?pool_timeout=1&connection_limit=9",
	"p@w", "p@w?x", "p@w?connection_limit=9", "p@w?connection_limit=9&x", "p?w@x", "p?connection_limit=9@x",
	"p/w", "//p", "p(w)", "p@tcp(x)", "p]w", "[p",
}

func TestPasswordsSurvive(t *testing.T) {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, pw := range rawPasswords {
		for _, form := range []struct{ front, joint string }{
			{"postgres://user:" + pw + "@h:5432/db", "?"},
			{"postgres://user:" + pw + "@h/db", "?"},
			{"postgres://user:" + pw + "@[::1]:5432/db", "?"},
			{"sqlserver://user:" + pw + "@h:1433", "?"},
			{"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db", "?"},
			{"user:" + pw + "@tcp(h:3306)/db", "?"},
			{"user:" + pw + "@unix(/tmp/mysql.sock)/db", "?"},
			{"user:" + pw + "@/db", "?"},
			{"file:app.db?_auth_pass=" + url.QueryEscape(pw), "&"},
			{"host=h password='" + quote.Replace(pw) + "' dbname=db", " "},
			{`server=h;user id=u;password="` + strings.ReplaceAll(pw, `"`, `""`) + `"`, ";"},
			{"odbc:server=h;user id=u;password={" + strings.ReplaceAll(pw, "}", "}}") + "}", ";"},
		} {
			dsn := form.front + form.joint + "connection_limit=7"
			rest, taken := take(dsn)
			if rest != form.front || len(taken) != 1 || taken[0].Value != "7" || taken[0].Doubtful {
				t.Errorf("%q became %q without %+v", dsn, rest, taken)
			}
		}
	}
}
