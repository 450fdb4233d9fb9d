package pooltest

import (
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
)

// A Tap is a proxy before a server that notes the statements that clients prepare.
type Tap struct {
	*faultproxy.Proxy
	DSN string // leads through the tap

	mu     sync.Mutex
	parsed map[string]int // by text, guarded by mu
	named  []string       // the names given to statements, guarded by mu
	syncs  int            // guarded by mu
}

// NewTap puts a tap before the server of dsn. The end of the test closes it.
func NewTap(t testing.TB, dsn string) *Tap {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	proxy, err := faultproxy.New(u.Host)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, proxy.Close()) })
	u.Host = proxy.Addr()
	p := &Tap{Proxy: proxy, DSN: u.String(), parsed: map[string]int{}}
	proxy.SetFrontend(func(kind byte, payload []byte) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch kind {
		case 'P': // Parse: a name, the text, and more
			name, rest, _ := strings.Cut(string(payload), "\x00")
			text, _, _ := strings.Cut(rest, "\x00")
			p.parsed[text]++
			if name != "" {
				p.named = append(p.named, name)
			}
		case 'S', 'Q': // Sync and Query: each is answered, and waited for
			p.syncs++
		}
	})
	return p
}

// Take returns what was noted since the last Take: how often each text was parsed, the names given to statements, and the
// round trips.
func (p *Tap) Take() (parsed map[string]int, named []string, roundTrips int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	parsed, named, roundTrips = p.parsed, p.named, p.syncs
	p.parsed, p.named, p.syncs = map[string]int{}, nil, 0
	return parsed, named, roundTrips
}
