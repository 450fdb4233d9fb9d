package dsn

import (
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestTarget(t *testing.T) {
	for _, env := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"} {
		t.Setenv(env, "")
	}
	t.Setenv("USER", "osuser")
	for _, tt := range []struct {
		driver, dsn string
		want        Target
		pool        string
	}{
		{"postgres", "postgres://u:p@db.example:6432/shop?sslmode=disable", Target{System: "postgresql", Host: "db.example", Port: "6432", Database: "shop"}, "db.example:6432/shop"},
		{"postgres", "postgresql://u:p@db/shop", Target{System: "postgresql", Host: "db", Port: "5432", Database: "shop"}, "db:5432/shop"},
		{"pgx", "postgres://u%40x:p@[2001:db8::1]:6432/my%20shop", Target{System: "postgresql", Host: "2001:db8::1", Port: "6432", Database: "my shop"}, "[2001:db8::1]:6432/my shop"},
		{"pgx", "postgres://u:p@[::1]/shop", Target{System: "postgresql", Host: "::1", Port: "5432", Database: "shop"}, "[::1]:5432/shop"},
		{"pgx", "postgres://u:p@h1:1,h2:2/shop", Target{System: "postgresql", Host: "h1", Port: "1", Database: "shop"}, "h1:1/shop"},
		{"pgx", "postgres://u:p@h1,h2:2/shop", Target{System: "postgresql", Host: "h1", Port: "5432", Database: "shop"}, "h1:5432/shop"},
		{"postgres", "postgres://u:p@h1,h2:2/shop", Target{System: "postgresql", Host: "h1", Port: "2", Database: "shop"}, "h1:2/shop"},
		{"postgres", "postgres://u:p@h1,h2/shop?port=1,2", Target{System: "postgresql", Host: "h1", Port: "1", Database: "shop"}, "h1:1/shop"},
		{"postgres", "postgres://u:p@/shop?host=/run/pg&port=6432", Target{System: "postgresql", Host: "/run/pg", Port: "6432", Database: "shop"}, "/run/pg:6432/shop"},
		{"postgres", "postgres://%2Frun%2Fpg/shop", Target{System: "postgresql", Host: "/run/pg", Port: "5432", Database: "shop"}, "/run/pg:5432/shop"},
		{"postgres", "postgres://", Target{System: "postgresql", Host: "localhost", Port: "5432", Database: "osuser"}, "localhost:5432/osuser"},
		{"postgres", "postgres://app:p@/", Target{System: "postgresql", Host: "localhost", Port: "5432", Database: "app"}, "localhost:5432/app"},
		{"postgres", "postgres://h/a?dbname=b&user=c", Target{System: "postgresql", Host: "h", Port: "5432", Database: "b"}, "h:5432/b"},
		{"postgres", "", Target{System: "postgresql", Host: "localhost", Port: "5432", Database: "osuser"}, "localhost:5432/osuser"},
		{"postgres", "user=app password='a b'", Target{System: "postgresql", Host: "localhost", Port: "5432", Database: "app"}, "localhost:5432/app"},
		{"postgres", "host=h1,h2 port=1,2 dbname = 'sh op'", Target{System: "postgresql", Host: "h1", Port: "1", Database: "sh op"}, "h1:1/sh op"},
		{"postgres", "hostaddr=10.0.0.1 database=shop", Target{System: "postgresql", Host: "10.0.0.1", Port: "5432", Database: "shop"}, "10.0.0.1:5432/shop"},
		{"postgres", "host=/run/pg dbname=shop", Target{System: "postgresql", Host: "/run/pg", Port: "5432", Database: "shop"}, "/run/pg:5432/shop"},
		{"postgres", "host=@/run/pg dbname=shop", Target{System: "postgresql", Host: "@/run/pg", Port: "5432", Database: "shop"}, "@/run/pg:5432/shop"},
		{"postgres", "service=x dbname=shop", Target{System: "postgresql", Database: "shop"}, "shop"},
		{"postgres", "postgres://u:p@h/db?service=x", Target{System: "postgresql", Host: "h", Database: "db"}, "h/db"},
		{"postgres", "host=h broken", Target{System: "postgresql"}, "postgres"},
		{"postgres", "host='open", Target{System: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p@h/%zz", Target{System: "postgresql"}, "postgres"},
		{"postgres", "postgres://user:secret", Target{System: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p@x?y@h/db", Target{System: "postgresql"}, "postgres"},
		{"postgres", "postgres://u:p?y@h/db", Target{System: "postgresql", Host: "h", Port: "5432", Database: "db"}, "h:5432/db"},
		{"postgres", "postgres://u:p@h:5432/db?application_name=a@b&x=y", Target{System: "postgresql", Host: "h", Port: "5432", Database: "db"}, "h:5432/db"},
		{"postgres", "host=h;password=x dbname=d", Target{System: "postgresql"}, "postgres"},
		{"other", "postgres://u:p@h/db", Target{System: "postgresql", Host: "h", Port: "5432", Database: "db"}, "h:5432/db"},
		{"other", "user=u host=h dbname=db", Target{System: "postgresql", Host: "h", Port: "5432", Database: "db"}, "h:5432/db"},
		{"nrpgx", "host=h dbname=db", Target{System: "postgresql", Host: "h", Port: "5432", Database: "db"}, "h:5432/db"},

		{"mysql", "u:p@tcp(db:3307)/shop?parseTime=true", Target{System: "mysql", Host: "db", Port: "3307", Database: "shop"}, "db:3307/shop"},
		{"mysql", "u:p@/s%68op@tcp(db)/shop", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@tcp(db)/s%68op", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@tcp([::1]:3307)/shop", Target{System: "mysql", Host: "::1", Port: "3307", Database: "shop"}, "[::1]:3307/shop"},
		{"mysql", "u:p@tcp([::1])/shop", Target{System: "mysql", Host: "::1", Port: "3306", Database: "shop"}, "[::1]:3306/shop"},
		{"mysql", "u:p@/shop", Target{System: "mysql", Host: "127.0.0.1", Port: "3306", Database: "shop"}, "127.0.0.1:3306/shop"},
		{"mysql", "/", Target{System: "mysql", Host: "127.0.0.1", Port: "3306"}, "127.0.0.1:3306"},
		{"mysql", "u:p@unix(/run/my.sock)/shop", Target{System: "mysql", Host: "/run/my.sock", Database: "shop"}, "/run/my.sock/shop"},
		{"mysql", "u:p@unix/shop", Target{System: "mysql", Host: "/tmp/mysql.sock", Database: "shop"}, "/tmp/mysql.sock/shop"},
		{"mysql", "u:p@cloud(project:region:name)/shop", Target{System: "mysql", Host: "project:region:name", Database: "shop"}, "project:region:name/shop"},
		{"mysql", "u:p@proxy(h:3306)/shop", Target{System: "mysql", Host: "h", Port: "3306", Database: "shop"}, "h:3306/shop"},
		{"mysql", "mysql://u:p@db/shop", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},
		{"other", "mysql://u:p@[::1]:3307/shop?x=y", Target{System: "mysql", Host: "::1", Port: "3307", Database: "shop"}, "[::1]:3307/shop"},
		{"mysql", "mysql://u:p@[::1/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp([::1)/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(::1)/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(h/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:p@tcp(h)/%zz", Target{System: "mysql"}, "mysql"},
		{"mysql", "password=@tcp(secret)/x", Target{System: "mysql"}, "mysql"},
		{"other", "password=@tcp(secret)/x", Target{System: "other_sql"}, "other"},
		{"mysql", "host=h password='tcp(secret)/x'", Target{System: "mysql"}, "mysql"},
		{"mysql", "u://p/w@tcp(db)/shop", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},
		{"other", "u://p/w@tcp(db)/shop", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},
		{"mysql", "u:p@secret/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:secret/shop", Target{System: "mysql"}, "mysql"},
		{"mysql", "u:p@x/secret@tcp(h)", Target{System: "mysql"}, "mysql"},
		{"mysql", "", Target{System: "mysql"}, "mysql"},
		{"other", "u:p@tcp(db)/shop", Target{System: "mysql", Host: "db", Port: "3306", Database: "shop"}, "db:3306/shop"},

		{"sqlite", "/var/lib/app.db?_pragma=busy_timeout(1)", Target{System: "sqlite", Database: "app.db"}, "app.db"},
		{"sqlite3", "file:data/my%20app.db?cache=shared&_auth_pass=x@y", Target{System: "sqlite", Database: "my app.db"}, "my app.db"},
		{"sqlite", "file:///var/app.db#x", Target{System: "sqlite", Database: "app.db"}, "app.db"},
		{"sqlite", ":memory:", Target{System: "sqlite", Database: ":memory:"}, ":memory:"},
		{"sqlite", "file::memory:?cache=shared", Target{System: "sqlite", Database: ":memory:"}, ":memory:"},
		{"sqlite", `C:\data\app.db`, Target{System: "sqlite", Database: "app.db"}, "app.db"},
		{"sqlite", "", Target{System: "sqlite"}, "sqlite"},
		{"sqlite", "host=h password='/secret?'", Target{System: "sqlite"}, "sqlite"},
		{"sqlite", "file:%zz", Target{System: "sqlite"}, "sqlite"},
		{"sqlite", "u:x/secret?y@tcp(h)/db", Target{System: "sqlite"}, "sqlite"},
		{"other", "app.sqlite3?x=y", Target{System: "sqlite", Database: "app.sqlite3"}, "app.sqlite3"},
		{"other", "file:app", Target{System: "sqlite", Database: "app"}, "app"},

		{"other", "sqlserver://sa:p@h?database=x", Target{System: "other_sql"}, "other"},
		{"other", "server=h;user id=sa;password=secret", Target{System: "other_sql"}, "other"},
		{"mysql", "user id=u;password=a@tcp(secret)/x", Target{System: "mysql"}, "mysql"},
		{"sqlite", "user id=u;password=/secret", Target{System: "sqlite"}, "sqlite"},
		{"sqlserver", "server=h;x host=y;password=/secret", Target{System: "other_sql"}, "sqlserver"},
		{"sqlserver", "odbc:server=h;database=secret", Target{System: "other_sql"}, "sqlserver"},
		{"other", "sqlmock_db_0", Target{System: "other_sql"}, "other"},
		{"other", "", Target{System: "other_sql"}, "other"},
		{"", "", Target{System: "other_sql"}, "other_sql"},
		{"bad\x00name", "", Target{System: "other_sql"}, "other_sql"},
	} {
		tt.want.Driver = tt.driver
		got := Find(tt.driver, tt.dsn)
		if got != tt.want {
			t.Errorf("Find(%q, %q)\n = %+v\nwant %+v", tt.driver, tt.dsn, got, tt.want)
		}
		if name := got.PoolName(); name != tt.pool {
			t.Errorf("pool name of %q, %q = %q, want %q", tt.driver, tt.dsn, name, tt.pool)
		}
	}
}

func TestTargetEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "envhost,other")
	t.Setenv("PGHOSTADDR", "")
	t.Setenv("PGPORT", "6000,6001")
	t.Setenv("PGDATABASE", "envdb")
	t.Setenv("PGUSER", "envuser")
	t.Setenv("PGSERVICE", "")
	for _, tt := range []struct{ dsn, pool string }{
		{"", "envhost:6000/envdb"},
		{"postgres:///", "envhost:6000/envdb"},
		{"hostaddr=10.0.0.1 user=u", "10.0.0.1:6000/envdb"},
		{"postgres://u:p@h:1/db", "h:1/db"},
	} {
		if got := Find("postgres", tt.dsn).PoolName(); got != tt.pool {
			t.Errorf("%q: %q, want %q", tt.dsn, got, tt.pool)
		}
	}
	t.Setenv("PGDATABASE", "")
	if got, want := Find("postgres", "").PoolName(), "envhost:6000/envuser"; got != want {
		t.Errorf("without PGDATABASE: %q, want %q", got, want)
	}
	t.Setenv("PGSERVICE", "x")
	if got, want := Find("postgres", "dbname=d").PoolName(), "d"; got != want {
		t.Errorf("with PGSERVICE: %q, want %q", got, want)
	}
}

// isName reports whether name keeps the rules of a pool's name.
func isName(name string) bool {
	return name != "" && len(name) <= MaxName && utf8.ValidString(name) && strings.TrimSpace(name) == name &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

func TestPoolNameIsValid(t *testing.T) {
	long := Target{Host: strings.Repeat("h", 250), Port: "5432", Database: "a " + strings.Repeat("ö", 60)}
	for _, tt := range []Target{long, {}, {Driver: " x"}, {Database: "db"}} {
		if name := tt.PoolName(); !isName(name) {
			t.Errorf("%+v is named %q", tt, name)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, pw := range rawPasswords {
		f.Add(pw, "", uint8(0))
		f.Add("", pw, uint8(1))
	}
	f.Add("12/", "@x", uint8(0))
	f.Add("p@", "/x", uint8(0))
	f.Add("12,", "/", uint8(0))
	f.Add("x(", ")/y", uint8(3))
	f.Fuzz(func(t *testing.T, before, after string, pick uint8) {
		pw := before + mark + after
		quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pw) + "'"
		drivers := []string{"postgres", "pgx", "mysql", "sqlite", "other", ""}
		driver := drivers[int(pick)%len(drivers)]
		for _, dsn := range []string{
			"postgres://user:" + url.QueryEscape(pw) + "@h:5432/db",
			"postgres://user:" + pw + "@h:5432/db",
			"postgres://user:" + pw + "@h/db?sslmode=disable",
			"postgres://user:" + pw + "@h1:1,h2:2/db",
			"postgres://user:" + pw + "@[::1]:5432",
			"postgres://user:" + pw + "@",
			"postgres://h/db?password=" + url.QueryEscape(pw),
			"mysql://user:" + pw + "@h:3306/db",
			"host=h user=u password=" + quoted + " dbname=db",
			"password=" + quoted,
			"user:" + pw + "@tcp(h:3306)/db?parseTime=true",
			"user:" + pw + "@unix(/tmp/mysql.sock)/db",
			"user:" + pw + "@/db",
			"server=h;user id=u;password=" + pw,
			"user id=u;password=" + pw + ";server=h",
			"odbc:server=h;password=" + pw + ";database=d",
			"app.db?_auth_user=u&_auth_pass=" + url.QueryEscape(pw),
		} {
			got := Find(driver, dsn)
			for _, s := range []string{got.System, got.Host, got.Port, got.Database, got.PoolName()} {
				if strings.Contains(s, mark) {
					t.Fatalf("Find(%q, %q) = %+v shows the password", driver, dsn, got)
				}
			}
			if name := got.PoolName(); !isName(name) {
				t.Fatalf("Find(%q, %q).PoolName() = %q", driver, dsn, name)
			}
		}
		Find(driver, pw)
	})
}
