package fleet

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that was cut off has connections that the server has dropped, callers who do not know yet, and dials without an
// answer. Their tokens are gone, and the others have to hear that it has none.
func TestTokensOfDeadConnectionsDoNotCount(t *testing.T) {
	m := NewMember(3)
	exchange := func(got Answer) Ask {
		a, ok := m.Ask()
		require.True(t, ok)
		m.Answered(a, got)
		return a
	}
	peers := []Peer{{ID: 1, Limit: 3}, {ID: 2, Limit: 3}}
	m.Connected(1)
	m.Demand(3, true)
	assert.Equal(t, 3, exchange(Answer{Taken: []int{1, 2, 3}, Peers: peers}).Take)
	for range 2 {
		serial, number, ok := m.Take()
		require.True(t, ok)
		m.Opened(serial, Conn{PID: int64(100 + number)})
	}
	_, _, ok := m.Take()
	require.True(t, ok)
	assert.Equal(t, 3, m.held())

	m.Lost()
	m.Connected(3)
	m.Demand(1, true)
	assert.Len(t, exchange(Answer{Claimed: []bool{false, false}, Peers: []Peer{{ID: 2, Limit: 3, Held: 3}, {ID: 3, Limit: 3}}}).Claim, 2)
	assert.Zero(t, m.held())
	assert.Len(t, m.Owed().Doomed, 2)
	assert.Contains(t, exchange(Answer{}).Say, Say{Word: Need, Ticket: 1, Held: 0, Want: 1})
}
