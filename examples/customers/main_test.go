package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// onEach runs a test on both databases, each new and filled.
func onEach(t *testing.T, test func(t *testing.T, d *database)) {
	for _, kind := range []databaseKind{sqlite, postgres} {
		t.Run(string(kind), func(t *testing.T) {
			if kind == sqlite {
				t.Setenv("TMPDIR", t.TempDir())
				test(t, open(t, ""))
			} else {
				test(t, open(t, pgtest.DSN(t)))
			}
		})
	}
}

// open opens a database as the service does, and closes it with the test.
func open(t *testing.T, databaseURL string) *database {
	t.Helper()
	d, err := openDatabase(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// with adds parameters, given as name and value in turn, to the URL of a database.
func with(databaseURL string, parameters ...string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		panic(err)
	}
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// await polls until something that only others can see has happened.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

// transcript collects what is written to it from any goroutine.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (tr *transcript) Write(p []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.Write(p)
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.String()
}

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		env   map[string]string
		want  settings
		fails string
	}{
		{name: "nothing", want: settings{addr: ":4004", grace: 15 * time.Second}},
		{name: "port", env: map[string]string{"PORT": "8080"}, want: settings{addr: ":8080", grace: 15 * time.Second}},
		{name: "flag over port", args: []string{"-addr", "127.0.0.1:9"}, env: map[string]string{"PORT": "8080"},
			want: settings{addr: "127.0.0.1:9", grace: 15 * time.Second}},
		{name: "all", args: []string{"-grace", "3s"}, env: map[string]string{"DATABASE_URL": "postgres:///shop"},
			want: settings{addr: ":4004", grace: 3 * time.Second, databaseURL: "postgres:///shop"}},
		{name: "port beyond range", env: map[string]string{"PORT": "65536"}, fails: `PORT is "65536"`},
		{name: "port is no number", env: map[string]string{"PORT": "http"}, fails: `PORT is "http"`},
		{name: "no grace", args: []string{"-grace", "0s"}, fails: "-grace is 0s"},
		{name: "argument", args: []string{"serve"}, fails: `unexpected argument "serve"`},
		{name: "unknown flag", args: []string{"-port", "1"}, fails: "-port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			getenv := func(name string) string { return tt.env[name] }
			got, err := parseSettings(tt.args, getenv, io.Discard)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("error %v, want one with %q", err, tt.fails)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestHints(t *testing.T) {
	for _, tt := range []struct {
		addr net.TCPAddr
		base string
	}{
		{net.TCPAddr{IP: net.IPv6unspecified, Port: 4004}, "http://localhost:4004/"},
		{net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, "http://127.0.0.1:80/"},
		{net.TCPAddr{IP: net.IPv6loopback, Port: 4004}, "http://[::1]:4004/"},
	} {
		var out bytes.Buffer
		printHints(&out, &tt.addr, sqlite)
		for _, want := range []string{
			"ab -n 1000 -c 100 " + tt.base + "api/customers\n",
			"curl " + tt.base + "healthz\n",
			"DATABASE_URL",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in the hints for %v:\n%s", want, &tt.addr, &out)
			}
		}
	}
}

// leftovers lists what is in a temporary folder.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}
