package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// One of two processes loses the network, and what was under way is lost. The server never has more connections of the fleet
// than it may. Once it has given up those of the process that is cut off, the other one uses their tokens. When the network
// is back, each has its share.
func TestNetworkCut(t *testing.T) {
	const tokens = 12
	cut := lasting(2500*time.Millisecond, 30*time.Second)
	a := newArena(t, tokens, 2)
	address := fmt.Sprintf("127.0.0.1:%d", a.server.Port())
	proxy, err := faultproxy.New(address)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, proxy.Close()) }) // after the members
	work := job{Callers: 16, Query: "INSERT INTO ledger SELECT now() FROM pg_sleep(0.02)", Ledger: true}
	work.DSN = a.dsn(tokens, "&application_name=near")
	near := startMember(t, work)
	work.DSN = strings.Replace(a.dsn(tokens, "&application_name=far&socket_timeout=2"), address, proxy.Addr(), 1)
	far := startMember(t, work)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("near %+v\nfar %+v\n%s", near.now(), far.now(), a.locks(t))
		}
	})
	shared := func() bool { return near.now().Held == tokens/2 && far.now().Held == tokens/2 }
	eventually(t, 10*time.Second, "each has half", shared)

	began := time.Now()
	proxy.Lose(faultproxy.Both)
	proxy.LoseNew(faultproxy.Both)
	if cut > 2*serverGivesUp {
		time.Sleep(serverGivesUp)
		// The proxy's host goes on to answer the server's keepalives, so the test does what they would.
		a.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'far'")
		eventually(t, 2*time.Second, "the other has all tokens", func() bool { return near.now().Held == tokens })
	}
	time.Sleep(cut - time.Since(began))
	before := far.now().Served
	require.NoError(t, proxy.Heal())
	eventually(t, lasting(10*time.Second, 5*time.Second), "after the cut each has half, and works", func() bool { return shared() && far.now().Served > before })
	acknowledged := near.stop(t).Acknowledged + far.stop(t).Acknowledged
	eventually(t, 5*time.Second, "no token is left", func() bool { return a.count(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0 })
	assert.GreaterOrEqual(t, int64(a.count(t, "SELECT count(*) FROM ledger")), acknowledged)
}

// serverGivesUp is after how long a server closes a connection of the fleet whose client is silent: five seconds, and three
// probes two seconds apart.
const serverGivesUp = 11 * time.Second

// All connections of a fleet have the server look for clients that are gone.
func TestServerLooksForClientsThatAreGone(t *testing.T) {
	dsn := pgtest.DSN(t)
	db, _ := open(t, dsn+"&fleet_limit=2&application_name=looked-for")
	var idle, interval, probes, most string
	require.NoError(t, db.QueryRow(`SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
		current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout')`).Scan(&idle, &interval, &probes, &most))
	assert.Equal(t, []string{"5", "2", "3"}, []string{idle, interval, probes})
	assert.Equal(t, fmt.Sprint(serverGivesUp.Milliseconds()), most)
}
