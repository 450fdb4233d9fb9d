package poolpage

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is wrong with the server's side is told on the page, without a password. The rest of the page stays.
func TestServerViewThatFails(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and never answers
	require.NoError(t, err)
	defer silent.Close()
	for dsn, says := range map[string]string{
		"postgres://u:hunter2@" + silent.Addr().String() + "/d?sslmode=disable": "has not answered within a second",
		"postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable":                    "refused",
		"postgres://u:hunter2@h/d?connection_limit=many":                        "connection_limit",
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
