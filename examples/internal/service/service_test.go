package service

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// app is a service with one table and one endpoint, which counts its rows.
var app = &Service{
	Name: "numbers",
	Port: 4004,
	Tables: func(key string) []string {
		return []string{"CREATE TABLE IF NOT EXISTS numbers (id " + key + ")"}
	},
	New: func(d *Database, log *slog.Logger) http.Handler {
		api := API{Database: d, Log: log}
		mux := api.Mux("numbers", "/api/numbers")
		mux.HandleFunc("GET /api/numbers", api.Answer(func(w http.ResponseWriter, r *http.Request) error {
			var n int
			if err := d.QueryRowContext(r.Context(), "SELECT count(*) FROM numbers").Scan(&n); err != nil {
				return err
			}
			return Respond(w, http.StatusOK, n)
		}))
		return mux
	},
	Try: []string{"curl BASE/healthz", "ab -n 1000 -c 100 BASE/api/numbers"},
}

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		env   map[string]string
		want  Settings
		fails string
	}{
		{name: "nothing", want: Settings{Addr: ":4004", Grace: 15 * time.Second}},
		{name: "port", env: map[string]string{"PORT": "8080"}, want: Settings{Addr: ":8080", Grace: 15 * time.Second}},
		{name: "flag over port", args: []string{"-addr", "127.0.0.1:9"}, env: map[string]string{"PORT": "8080"},
			want: Settings{Addr: "127.0.0.1:9", Grace: 15 * time.Second}},
		{name: "all", args: []string{"-grace", "3s"}, env: map[string]string{"DATABASE_URL": "postgres:///shop"},
			want: Settings{Addr: ":4004", Grace: 3 * time.Second, DatabaseURL: "postgres:///shop"}},
		{name: "port beyond range", env: map[string]string{"PORT": "65536"}, fails: `PORT is "65536"`},
		{name: "port is no number", env: map[string]string{"PORT": "http"}, fails: `PORT is "http"`},
		{name: "no grace", args: []string{"-grace", "0s"}, fails: "-grace is 0s"},
		{name: "argument", args: []string{"serve"}, fails: `unexpected argument "serve"`},
		{name: "unknown flag", args: []string{"-port", "1"}, fails: "-port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			getenv := func(name string) string { return tt.env[name] }
			got, err := app.ParseSettings(tt.args, getenv, io.Discard)
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
		app.printHints(&out, &tt.addr, SQLite)
		for _, want := range []string{
			"ab -n 1000 -c 100 " + tt.base + "api/numbers\n",
			"curl " + tt.base + "healthz\n",
			"DATABASE_URL",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in the hints for %v:\n%s", want, &tt.addr, &out)
			}
		}
	}
}
