package session_test

import (
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A basin is a pool under load, a server of its own, and the bad network between them.
type basin struct {
	t      *testing.T
	rnd    *rand.Rand // of the faults; for the test's goroutine alone
	server *pgtest.Server
	look   *sql.DB // to look at the server with, past the proxy
	proxy  *faultproxy.Proxy
	db     *sql.DB
	name   string // its application_name

	limit                                      int
	poolTimeout, socketTimeout, connectTimeout time.Duration // connectTimeout is 0 where the DSN has none
	cached                                     bool          // statements are kept

	calls   atomic.Pointer[calls]
	large   atomic.Bool // one of the writers sends values of megabytes
	paused  atomic.Bool
	busy    atomic.Int64
	first   int64 // the ids of this basin's rows are from first up to first + idsEach
	struck  strikes
	written []map[int64]ledgerOutcome

	stopping chan struct{} // closed when the writers are to end
	writers  sync.WaitGroup
	watcher  sync.WaitGroup
	most     atomic.Int64 // most connections seen on the server
	looks    atomic.Int64
	slowLook atomic.Int64 // nanoseconds; the longest look since the network was healed
	slowest  atomic.Pointer[slowest]

	goroutines  goleak.Option // those that were there before
	descriptors int           // likewise
}

const idsEach = 1 << 40

// slowest is the longest operation of a caller.
type slowest struct {
	took time.Duration
	what string
	err  error
}

func (s *slowest) String() string {
	return fmt.Sprintf("%v (%s: %v)", s.took.Round(time.Millisecond), s.what, s.err)
}

// calls are the operations that began within some stretch of time.
type calls struct {
	mu        sync.Mutex
	succeeded int
	late      int            // of succeeded, those that took more than soon
	cancelled int            // by their own context
	failed    map[string]int // by the cause that the error names
	errors    map[string]string
	slowest   time.Duration
	what      string // was slowest
}

func newCalls() *calls { return &calls{failed: map[string]int{}, errors: map[string]string{}} }

func (c *calls) failures() (n int) {
	for _, k := range c.failed {
		n += k
	}
	return n
}

func (c *calls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.succeeded + c.failures()
}

func (c *calls) String() string {
	causes := slices.Sorted(maps.Keys(c.failed))
	for i, cause := range causes {
		causes[i] = fmt.Sprintf("%d× %s", c.failed[cause], cause)
	}
	return fmt.Sprintf("%d succeeded, %d cancelled, %d failed (%s), slowest %v (%s)", c.succeeded, c.cancelled,
		c.failures(), strings.Join(causes, ", "), c.slowest.Round(time.Millisecond), c.what)
}

// waterServer is the server that basins are filled from.
func waterServer(t *testing.T) *pgtest.Server {
	t.Helper()
	server := pgtest.Start(t, "max_connections=40")
	look, err := sql.Open("postgres", server.DSN())
	require.NoError(t, err)
	defer look.Close()
	_, err = look.Exec("CREATE TABLE ledger (id bigint PRIMARY KEY)")
	require.NoError(t, err)
	return server
}

// newBasin opens a pool on server through a proxy. params go to the DSN: pool_timeout, socket_timeout and connect_timeout
// have to be among them, the last unless the driver is to have none.
func newBasin(t *testing.T, rnd *rand.Rand, server *pgtest.Server, limit int, params ...string) *basin {
	t.Helper()
	n := pooltest.Number()
	b := &basin{
		t: t, rnd: rnd, server: server, limit: limit, cached: true,
		name:     fmt.Sprintf("basin_%d_%d", os.Getpid(), n),
		stopping: make(chan struct{}),
		first:    n * idsEach,
	}
	for _, p := range params {
		name, value, _ := strings.Cut(p, "=")
		seconds, err := time.ParseDuration(value + "s")
		if err != nil {
			seconds, err = time.ParseDuration(value)
		}
		require.NoError(t, err, p)
		switch name {
		case "pool_timeout":
			b.poolTimeout = seconds
		case "socket_timeout":
			b.socketTimeout = seconds
		case "connect_timeout":
			b.connectTimeout = seconds
		case "statement_cache_size":
			b.cached = seconds > 0
		}
	}
	require.NotZero(t, b.poolTimeout)
	require.NotZero(t, b.socketTimeout)

	b.look = pooltest.OpenControl(t, server.DSN())
	require.NoError(t, b.look.Ping())
	b.goroutines = goleak.IgnoreCurrent()
	b.descriptors = descriptors(t)

	var err error
	b.proxy, err = faultproxy.New(fmt.Sprintf("%s:%d", server.Host(), server.Port()))
	require.NoError(t, err)
	t.Cleanup(func() {
		// First, because it ends what hangs.
		assert.NoError(t, b.proxy.Close())
		if b.db != nil {
			b.db.Close()
		}
	})
	u, err := url.Parse(server.DSN())
	require.NoError(t, err)
	u.Host = b.proxy.Addr()
	b.db, err = lifeguard.Open("postgres", pooltest.AddParams(t, u.String(), append(params,
		"application_name="+b.name, fmt.Sprint("connection_limit=", limit))...), pooltest.Quiet)
	require.NoError(t, err)
	return b
}

// descriptors counts the open files of this process, 0 where the system does not tell.
func descriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}
