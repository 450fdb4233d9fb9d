package poolpage

import (
	"database/sql"
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// What the server says stands beside the holder of the same connection: who blocks it, inside of the pool by its place in
// the code, outside by its application.
func TestServerView(t *testing.T) {
	dsn := pgtest.DSN(t)
	db, err := sql.Open("lifeguard", dsn+"&connection_limit=5&application_name=service")
	require.NoError(t, err)
	defer db.Close()
	for _, text := range []string{"CREATE TABLE seats (id int PRIMARY KEY, n int)", "INSERT INTO seats VALUES (1, 0), (2, 0)"} {
		_, err := db.ExecContext(t.Context(), text)
		require.NoError(t, err)
	}
	inside, err := db.Begin()
	require.NoError(t, err)
	defer inside.Rollback()
	_, err = inside.Exec("UPDATE seats SET n = 1 WHERE id = 1")
	require.NoError(t, err)
	other, err := sql.Open("postgres", dsn+"&application_name=by-hand")
	require.NoError(t, err)
	defer other.Close()
	outside, err := other.Begin()
	require.NoError(t, err)
	defer outside.Rollback()
	_, err = outside.Exec("UPDATE seats SET n = 1 WHERE id = 2")
	require.NoError(t, err)
	done := make(chan error)
	for _, id := range []string{"1", "2"} {
		go func() {
			_, err := db.ExecContext(t.Context(), "UPDATE seats SET n = 2 WHERE id = "+id)
			done <- err
		}()
	}

	h := mounted(Handler(db, WithServerView(dsn+"&connection_limit=3&application_name=page")))
	var blocked []ServerSession
	var seen Pool
	require.Eventually(t, func() bool {
		var r Report
		require.NoError(t, json.Unmarshal(get(h, "/debug/pool/", "application/json").Body.Bytes(), &r))
		seen, blocked = r.Pools[0], nil
		for _, s := range seen.Slots {
			if s.Server != nil && len(s.Server.BlockedBy) > 0 {
				blocked = append(blocked, *s.Server)
			}
		}
		return len(blocked) == 2
	}, 30*time.Second, 100*time.Millisecond)
	require.NotNil(t, seen.Server)
	assert.Empty(t, seen.Server.Error)
	var by []string
	for _, s := range blocked {
		assert.Equal(t, "active", s.State)
		assert.Equal(t, "Lock: transactionid", s.WaitEvent)
		by = append(by, s.BlockedBy...)
	}
	all := strings.Join(by, "\n")
	assert.Contains(t, all, "poolpage.TestServerView (server_test.go:")
	assert.Regexp(t, `by-hand, process \d+, idle in transaction for `, all)
	for _, s := range seen.Slots {
		if s.State == "idle in a transaction" {
			require.NotNil(t, s.Server)
			assert.Equal(t, "idle in transaction", s.Server.State)
		}
	}
	for _, accept := range []string{"", browser} {
		text := get(h, "/debug/pool/", accept).Body.String()
		assert.Contains(t, text, "blocked by ")
		assert.Contains(t, text, "by-hand, process")
	}

	require.NoError(t, inside.Rollback())
	require.NoError(t, outside.Rollback())
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	pages := func() (n int) {
		require.NoError(t, other.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'page'").Scan(&n))
		return n
	}
	assert.Equal(t, 1, pages())
	require.NoError(t, db.Close())
	require.Eventually(t, func() bool { return pages() == 0 }, 30*time.Second, 50*time.Millisecond, "it ends with the pool")
}

// What is wrong with the server's side is told on the page, without a password. The rest of the page stays.
func TestServerViewThatFails(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and never answers
	require.NoError(t, err)
	defer silent.Close()
	for dsn, says := range map[string]string{
		"postgres://u:hunter2@" + silent.Addr().String() + "/d?sslmode=disable": "has not answered within a second",
		"postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable":                    "refused",
		"postgres://u:hunter2@h/d?connection_limit=many":                        "connection_limit",
		"u:hunter2@tcp(h:3306)/d":                                               "server",
		"":                                                                      "WithServerView got an empty DSN",
	} {
		db, _ := open(t)
		h := mounted(Handler(db, WithServerView(dsn)))
		for _, accept := range []string{"", "application/json"} {
			text := get(h, "/debug/pool/", accept).Body.String()
			assert.Contains(t, text, says)
			assert.NotContains(t, text, "hunter2")
		}
		assert.Equal(t, 200, get(h, "/debug/pool/", browser).Code)
	}
}

func TestSessionOfAnotherServer(t *testing.T) {
	assert.True(t, same(10.2, 10))
	assert.False(t, same(1000, 10), "its process number alone is the same")
	assert.False(t, same(1, 10))
}
