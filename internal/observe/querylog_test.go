package observe

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestQueryLog(t *testing.T) {
	const (
		caller = `caller="observe.(*recorder).end (observe_test.go)"`
		slow   = `level=WARN msg="lifeguard: slow query" pool=fake operation=UPDATE duration=1s wait=0s ` +
			caller + ` query="UPDATE slow SET name = ?"`
		wait = `level=WARN msg="lifeguard: long wait for a connection" pool=fake operation=CONNECT duration=500ms ` + caller
	)
	for mode, want := range map[LogMode][]string{
		LogOff:  nil,
		LogSlow: {slow, wait},
		LogAll: {
			`level=DEBUG msg="lifeguard: query" pool=fake operation=CONNECT duration=100ms ` + caller,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=UPDATE duration=0s wait=100ms ` + caller +
				` query="UPDATE t SET name = ? WHERE id = ?"`,
			slow,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=SELECT duration=0s wait=0s rows=1 ` + caller +
				` query="SELECT a FROM t"`,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=BEGIN duration=0s wait=0s ` + caller,
			`level=DEBUG msg="lifeguard: query" pool=fake operation=INSERT duration=0s wait=0s error=23505 ` + caller +
				` query="INSERT INTO t VALUES (?)"`,
			`level=DEBUG msg="lifeguard: query" pool=fake duration=0s wait=0s ` + caller + ` query=frobnicate`,
			wait,
		},
	} {
		r := record(t, func(c *Config) { c.Trace, c.Log = TraceOff, mode })
		for _, op := range []Operation{
			{Kind: Connect, Took: 100 * time.Millisecond},
			{Kind: Exec, Query: "UPDATE t SET name = 'secret' WHERE id = 4711", Waited: 100 * time.Millisecond, First: true},
			{Kind: Exec, Query: "UPDATE slow SET name = ?", Took: time.Second},
			{Kind: Query, Query: "SELECT a FROM t", Rows: 1},
			{Kind: Begin},
			{Kind: Exec, Query: "INSERT INTO t VALUES ('secret')", Err: sqlError{"23505"}},
			{Kind: Exec, Query: "frobnicate"},
			{Kind: Connect, Took: 500 * time.Millisecond},
		} {
			r.none(op)
		}
		assert.Equal(t, want, r.lines(), "mode %d", mode)
	}
}

// Where the level is not enabled, nothing is made up for the log.
func TestQueryLogAsksForLevel(t *testing.T) {
	var log bytes.Buffer
	r := record(t, func(c *Config) {
		c.Trace, c.Log = TraceOff, LogAll
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	r.end(Operation{Kind: Ping})
	assert.Empty(t, log.String())
	r.end(Operation{Kind: Ping, Took: time.Second})
	assert.Contains(t, log.String(), `level=WARN msg="lifeguard: slow query"`)
}
