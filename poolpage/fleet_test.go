package poolpage

import (
	"context"
	"database/sql"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/look"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// A caller that waits for want of a token sees a slot without one, who has the tokens, and why it waits.
func TestTokenMissing(t *testing.T) {
	dsn := pgtest.DSN(t) + "&connection_limit=3&pool_timeout=60&fleet_limit=2&application_name="
	others, err := sql.Open("lifeguard", dsn+"others")
	require.NoError(t, err)
	defer others.Close()
	for range 2 {
		conn, err := others.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
	}
	db, err := sql.Open("lifeguard", dsn+"mine")
	require.NoError(t, err)
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	go func() { waited <- db.PingContext(ctx) }()

	h := mounted(Handler(db))
	var p Pool
	require.Eventually(t, func() bool {
		var r Report
		require.NoError(t, json.Unmarshal(get(h, "/debug/pool/", "application/json").Body.Bytes(), &r))
		p = r.Pools[0]
		return p.Waiting == 1 && p.Fleet != nil && len(p.Fleet.Members) == 2 && len(p.Slots) > 0
	}, 30*time.Second, 50*time.Millisecond)
	assert.Equal(t, string(look.NoToken), p.Slots[0].State)
	assert.Equal(t, 2, p.Fleet.Limit)
	assert.Zero(t, p.Fleet.Held)
	assert.Positive(t, p.Fleet.Wanted)
	for _, m := range p.Fleet.Members {
		if m.Self {
			assert.Zero(t, m.Held)
		} else {
			assert.Equal(t, 2, m.Held)
			assert.Contains(t, m.Name, "others")
		}
	}
	page := get(h, "/debug/pool/", "text/html").Body.String()
	assert.Contains(t, page, "token missing")
	assert.Contains(t, page, "0<small> of 2, 2 processes")
	assert.Contains(t, page, "2 held by others 127.0.0.1 (pid ")
	assert.Contains(t, page, "0 held by this process")
	table := get(h, "/debug/pool/", "*/*").Body.String()
	assert.Contains(t, table, "token missing")
	assert.Contains(t, table, "others")
	cancel()
	require.ErrorIs(t, <-waited, context.Canceled)
}
