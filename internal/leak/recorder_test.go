package leak_test

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// leakReports are what a pool said about leaks, to its handler and to its log.
type leakReports struct {
	mu    sync.Mutex
	leaks []lifeguard.Leak // guarded by mu
	log   bytes.Buffer     // guarded by mu
}

func (r *leakReports) handle(l lifeguard.Leak) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaks = append(r.leaks, l)
}

func (r *leakReports) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

// take gives the reports since the last call.
func (r *leakReports) take() ([]lifeguard.Leak, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	leaks, text := r.leaks, strings.TrimSuffix(r.log.String(), "\n")
	r.leaks = nil
	r.log.Reset()
	if text == "" {
		return leaks, nil
	}
	return leaks, strings.Split(text, "\n")
}

// next gives the first report for which is is true, and leaves those that follow for later.
func (r *leakReports) next(is func(lifeguard.Leak) bool) (found lifeguard.Leak, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.leaks, is)
	if i < 0 {
		return found, false
	}
	found = r.leaks[i]
	r.leaks = r.leaks[i+1:]
	return found, true
}

func (r *leakReports) options() []lifeguard.Option {
	return []lifeguard.Option{
		lifeguard.WithLeakHandler(r.handle),
		lifeguard.WithLogger(slog.New(slog.NewTextHandler(r, nil))),
	}
}

// openReported is openFake for tests that read the reports.
func openReported(t *testing.T, srv *fakedriver.Server, set func(*lifeguard.Config), opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool, *leakReports) {
	t.Helper()
	return openReportedOn(t, srv, srv.Connector(), set, opts...)
}

// openReportedOn is openReported for a connector that wraps the server's.
func openReportedOn(t *testing.T, srv *fakedriver.Server, connector driver.Connector, set func(*lifeguard.Config), opts ...lifeguard.Option) (*sql.DB, *lifeguard.Pool, *leakReports) {
	t.Helper()
	cfg := lifeguard.DefaultConfig()
	cfg.PoolName = "fake"
	if set != nil {
		set(&cfg)
	}
	r := &leakReports{}
	db, err := lifeguard.OpenDB(connector, append(append(r.options(), lifeguard.WithConfig(cfg)), opts...)...)
	require.NoError(t, err)
	pool, ok := lifeguard.PoolOf(db)
	require.True(t, ok)
	t.Cleanup(func() {
		assert.NoError(t, db.Close())
		assert.Eventually(t, func() bool { return srv.Open() == 0 }, 10*time.Second, time.Millisecond, "connections left open")
		assert.Empty(t, srv.Violations())
	})
	return db, pool, r
}
