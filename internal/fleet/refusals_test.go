package fleet_test

import (
	"database/sql"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
)

// What cannot work is an error of sql.Open that says why, and what to do instead.
func TestRefusals(t *testing.T) {
	const base = "postgres://app:hunter2@db.example/shop?"
	for _, c := range []struct{ dsn, says string }{
		{base + "fleet_limit=0", `fleet_limit: "0" is out of range`},
		{base + "fleet_limit=-3", "fleet_limit"},
		{base + "fleet_limit=65536", "is out of range"},
		{base + "fleet_limit=4&min_connections=5", "fleet_limit=4 is less than min_connections=5"},
		{base + "fleet_limit=4&fleet_name=a%07b", "fleet_name"},
		{base + "fleet_name=shop", "fleet_name does nothing without fleet_limit"},
		{base + "fleet_limit=4&pgbouncer=true", "pooler in transaction mode"},
		{base + "fleet_limit=4&target_session_attrs=standby", "write target_session_attrs=primary"},
		{base + "fleet_limit=4&default_query_exec_mode=exec", "only pgx knows default_query_exec_mode"},
		{base + "fleet_limit=4&channel_binding=require", "only pgx knows channel_binding: leave it out"},
		{"postgres://app:hunter2@a:5432,b:5433/shop?fleet_limit=4", "host=a,b&port=5432,5433"},
		{base + "flet_limit=4", "write fleet_limit"},
	} {
		db, err := sql.Open("lifeguard", c.dsn)
		if assert.Error(t, err, c.dsn) {
			assert.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "hunter2")
		} else {
			assert.NoError(t, db.Close())
		}
	}
}

func TestOtherDatabasesAndConnectorsAreRefused(t *testing.T) {
	lifeguard.Register("fleet-test-mysql", &pq.Driver{})
	_, err := sql.Open("fleet-test-mysql", "app:secret@tcp(db.example)/shop?fleet_limit=4")
	assert.ErrorContains(t, err, "MAX_USER_CONNECTIONS")
	c, err := pq.NewConnector("postgres://app:secret@db.example/shop")
	require.NoError(t, err)
	_, err = lifeguard.OpenDB(c, lifeguard.WithFleetLimit(4))
	assert.ErrorContains(t, err, "OpenDB")
}
