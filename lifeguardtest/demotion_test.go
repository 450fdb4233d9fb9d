package lifeguardtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// recovery is how soon all writes must work again.
const recovery = 5 * time.Second

// writers write in a handle without a pause, and note when they last failed and first wrote since.
type writers struct {
	name                  string
	db                    *sql.DB
	wrote, failed         atomic.Int64
	lastFailure, lastDone atomic.Int64 // Unix nanoseconds
	lastError             atomic.Value // string
}

func (w *writers) run(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := w.db.Exec("INSERT INTO written SELECT 1 FROM pg_sleep(0.01)")
		if err == nil {
			w.wrote.Add(1)
			w.lastDone.Store(time.Now().UnixNano())
			continue
		}
		w.failed.Add(1)
		w.lastFailure.Store(time.Now().UnixNano())
		w.lastError.Store(err.Error())
		select { // as a program would, before it tries again
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// load has four writers each through lifeguard and on plain lib/pq, until the returned function is called.
func load(t *testing.T, dsn string) (through, plain *writers, end func()) {
	t.Helper()
	through, plain = &writers{name: "lifeguard"}, &writers{name: "lib/pq"}
	var err error
	if through.db, err = sql.Open("lifeguard", dsn+" connection_limit=4 pool_timeout=3"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { through.db.Close() })
	if plain.db, err = sql.Open("postgres", dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.db.Close() })
	plain.db.SetMaxOpenConns(4)
	plain.db.SetMaxIdleConns(4)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() { through.run(ctx) })
		running.Go(func() { plain.run(ctx) })
	}
	return through, plain, func() { cancel(); running.Wait() }
}

// watch returns when they have written for a second since a server took writes, without a failure, or have had long enough.
func (w *writers) watch(since time.Time) {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for now := range poll.C {
		good := max(since.UnixNano(), w.lastFailure.Load())
		if w.lastDone.Load()-good > int64(time.Second) || now.Sub(since) > recovery+time.Second {
			return
		}
	}
}

// report logs how it went since the writable server was there.
func (w *writers) report(t *testing.T, since time.Time) (recovered time.Duration) {
	t.Helper()
	if w.failed.Load() == 0 {
		t.Logf("%s: %d written, none failed", w.name, w.wrote.Load())
		return 0
	}
	recovered = time.Duration(w.lastFailure.Load() - since.UnixNano())
	t.Logf("%s: %d written, %d failed, the last failure %v after a server took writes: %v",
		w.name, w.wrote.Load(), w.failed.Load(), recovered.Round(time.Millisecond), w.lastError.Load())
	return recovered
}

// prepare makes the table on the primary. The standby follows in its own time.
func prepare(t *testing.T, primary *pgtest.Server) {
	t.Helper()
	db, err := sql.Open("postgres", primary.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE written (n int)"); err != nil {
		t.Fatal(err)
	}
}

// TestDemotedPrimary has a primary and its standby change their roles under load.
func TestDemotedPrimary(t *testing.T) {
	a, b := pgtest.StartPair(t)
	prepare(t, a)
	through, plain, end := load(t, fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=lifeguard password=secret "+
		"dbname=postgres sslmode=disable target_session_attrs=read-write", a.Port(), b.Port()))
	pooltest.Eventually(t, "both write", func() bool { return through.wrote.Load() > 20 && plain.wrote.Load() > 20 })
	a.Stop(t, "fast")
	b.Promote(t)
	promoted := time.Now()
	a.Follow(t, b)
	through.watch(promoted)
	end()
	plain.report(t, promoted)
	if took := through.report(t, promoted); took > recovery {
		t.Errorf("writes failed %v after the promotion", took)
	}
	if idle := time.Now().UnixNano() - through.lastDone.Load(); idle > int64(time.Second) {
		t.Errorf("nobody has written for %v", time.Duration(idle))
	}
}

// TestReadOnlyServerIsLeft has the address of the primary move while all connections to the former one stay open. That one
// is a standby.
func TestReadOnlyServerIsLeft(t *testing.T) {
	primary, standby := pgtest.StartPair(t)
	prepare(t, primary)
	address := &address{}
	address.to.Store(int64(standby.Port()))
	port := address.listen(t)
	through, plain, end := load(t, fmt.Sprintf("host=127.0.0.1 port=%d user=lifeguard password=secret dbname=postgres sslmode=disable", port))
	pooltest.Eventually(t, "both are refused", func() bool { return through.failed.Load() > 8 && plain.failed.Load() > 8 })
	address.to.Store(int64(primary.Port()))
	moved := time.Now()
	through.watch(moved)
	end()
	plain.report(t, moved)
	if took := through.report(t, moved); took > recovery {
		t.Errorf("writes failed %v after the address moved", took)
	}
	if through.wrote.Load() == 0 {
		t.Error("nobody has written")
	}
}

// An address forwards each connection to the server that it stands for then.
type address struct{ to atomic.Int64 }

func (a *address) listen(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			forwarding.Go(func() { a.forward(client) })
		}
	})
	t.Cleanup(func() { listener.Close(); forwarding.Wait() })
	return listener.Addr().(*net.TCPAddr).Port
}

func (a *address) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.to.Load()))
	if err != nil {
		return
	}
	go func() { // ends when either side closes
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}
