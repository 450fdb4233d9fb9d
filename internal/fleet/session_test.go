package fleet

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// What others say is heard at once, also over an encrypted connection: there the socket tells before anything is decrypted.
func TestEncryptedSessionHears(t *testing.T) {
	const rounds = 20
	connector, err := libpq.NewConnector(pgtest.StartTLS(t).DSN(), libpq.SocketOptions{}, false)
	require.NoError(t, err)
	start := func() *session {
		s, err := connect(t.Context(), connector, "shop", 4)
		require.NoError(t, err)
		t.Cleanup(s.close)
		return s
	}
	listener, speaker := start(), start()
	encrypted, err := listener.query("SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL")
	require.NoError(t, err)
	require.Equal(t, "true", one(encrypted))
	for range rounds {
		said, done := listener.input()
		require.NotNil(t, said, "the socket tells")
		_, err := speaker.exchange(Ask{Say: []Say{{Word: Need, Ticket: 1, Want: 1}}})
		require.NoError(t, err)
		select {
		case <-said:
		case <-time.After(10 * time.Second):
			require.Fail(t, "nothing was heard")
		}
		done()
		_, err = listener.query("SELECT 1")
		require.NoError(t, err)
	}
	assert.Len(t, listener.inbox, rounds)
}
