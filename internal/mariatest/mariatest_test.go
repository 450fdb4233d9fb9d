package mariatest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

// query runs a statement with the client program; this module has no MySQL driver.
func query(t *testing.T, dsn, statement string) (string, error) {
	t.Helper()
	l, ok := parse(dsn)
	if !ok {
		t.Fatalf("not a data source name: %s", dsn)
	}
	client, err := find("mariadb")
	if err != nil {
		t.Fatal(err)
	}
	database, _, _ := strings.Cut(dsn[strings.LastIndexByte(dsn, '/')+1:], "?")
	cmd := exec.Command(client, "--no-defaults", "--protocol=tcp", "--skip-ssl", "--host="+l.host, "--port="+l.port,
		"--user="+l.user, "--skip-column-names", "--execute="+statement, database)
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+l.password)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func TestDSNGivesAFreshDatabaseAndDropsIt(t *testing.T) {
	other := DSN(t)
	var name string
	t.Run("used", func(t *testing.T) {
		for _, dsn := range []string{DSN(t), DSN(t)} {
			if out, err := query(t, dsn, "CREATE TABLE pools (id int)"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			name, _ = query(t, dsn, "SELECT database()")
		}
	})
	if !strings.HasPrefix(name, "testdb_") {
		t.Fatalf("database is %q", name)
	}
	out, err := query(t, other, "SELECT count(*) FROM information_schema.schemata WHERE schema_name = '"+name+"'")
	if err != nil || out != "0" {
		t.Errorf("got %q, %v; want database %s to be gone after its test", out, err, name)
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	out, err := query(t, strings.Replace(Start(t), password, "guess", 1), "SELECT 1")
	if err == nil || !strings.Contains(out, "Access denied") {
		t.Errorf("got %q, %v; want access denied", out, err)
	}
}

func TestStartAppliesSettings(t *testing.T) {
	if out, err := query(t, Start(t, "max_connections=11"), "SELECT @@max_connections"); out != "11" {
		t.Errorf("got %q, %v; want 11", out, err)
	}
}

func TestParse(t *testing.T) {
	for dsn, want := range map[string]login{
		"u:p@tcp(h:1)/":                 {"u", "p", "h", "1", "parseTime=true"},
		"u@tcp(h)/db":                   {"u", "", "h", "3306", "parseTime=true"},
		"u:p:/@(@tcp([::1]:2)/db?tls=a": {"u", "p:/@(", "::1", "2", "tls=a"},
		"u:p@unix(/socket)/":            {},
		"postgres://u:p@h:1/db":         {},
		"":                              {},
	} {
		if got, ok := parse(dsn); ok != (want != login{}) || ok && got != want {
			t.Errorf("%s: got %+v, %v", dsn, got, ok)
		}
	}
}
