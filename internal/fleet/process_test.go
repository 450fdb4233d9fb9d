package fleet_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// memberEnvironment has this test's binary be a member of a fleet.
const memberEnvironment = "LIFEGUARD_TEST_FLEET_MEMBER"

// job is what a member does.
type job struct {
	DSN     string
	Callers int
	Query   string // run again and again by each of them
	Ledger  bool   // they write rows and count those that the server has acknowledged
}

// progress is a line that a member writes ten times a second.
type progress struct {
	Served, Failed, Acknowledged int64
	Open, Held, Wanted           int
	Limit, Processes             int
	DialErrors                   uint64
	Error                        string
}

// runMember is the main of a member: it works until its standard input ends. A number there is how many callers work.
func runMember() {
	var j job
	if err := json.Unmarshal([]byte(os.Getenv(memberEnvironment)), &j); err != nil {
		panic(err)
	}
	db, err := sql.Open("lifeguard", j.DSN)
	if err != nil {
		panic(err)
	}
	pool, _ := lifeguard.PoolOf(db)
	var served, failed, acknowledged atomic.Int64
	var last atomic.Value
	last.Store("")
	ctx, stop := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	var active atomic.Int64
	active.Store(int64(j.Callers))
	for i := range j.Callers {
		callers.Go(func() {
			for ctx.Err() == nil {
				if int64(i) >= active.Load() {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				_, err := db.ExecContext(ctx, j.Query)
				switch {
				case err == nil && j.Ledger:
					acknowledged.Add(1)
					served.Add(1)
				case err == nil:
					served.Add(1)
				case ctx.Err() == nil:
					failed.Add(1)
					last.Store(err.Error())
					time.Sleep(10 * time.Millisecond) // or a server that is down would keep the processors busy
				}
			}
		})
	}
	say := func() {
		st := pool.Stats()
		text, err := json.Marshal(progress{
			Served: served.Load(), Failed: failed.Load(), Acknowledged: acknowledged.Load(), Open: st.Open,
			Held: st.FleetHeld, Wanted: st.FleetWanted, Limit: st.FleetLimit, Processes: st.FleetProcesses,
			DialErrors: st.DialErrors, Error: last.Load().(string),
		})
		if err == nil {
			fmt.Printf("%s\n", text)
		}
	}
	ended := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				active.Store(n)
			}
		}
		close(ended)
	}()
	for {
		select {
		case <-time.After(50 * time.Millisecond):
			say()
		case <-ended:
			stop()
			callers.Wait()
			say()
			if err := db.Close(); err != nil {
				panic(err)
			}
			return
		}
	}
}

// member is a process of a fleet.
type member struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	read  chan struct{} // closed when its output has ended

	mu   sync.Mutex
	last progress // guarded by mu
}

func startMember(t *testing.T, j job) *member {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	m := &member{cmd: exec.Command(os.Args[0]), read: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), memberEnvironment+"="+string(text))
	m.cmd.Stderr = os.Stderr
	m.stdin, err = m.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := m.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, m.cmd.Start())
	go func() { // ends with the process
		defer close(m.read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var p progress
			if json.Unmarshal(lines.Bytes(), &p) == nil {
				m.mu.Lock()
				m.last = p
				m.mu.Unlock()
			}
		}
	}()
	t.Cleanup(m.kill)
	return m
}

func (m *member) now() progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// load has only so many callers work.
func (m *member) load(t *testing.T, callers int) {
	t.Helper()
	_, err := fmt.Fprintln(m.stdin, callers)
	require.NoError(t, err)
}

// stop ends the process in good order.
func (m *member) stop(t *testing.T) progress {
	t.Helper()
	require.NoError(t, m.stdin.Close())
	<-m.read
	require.NoError(t, m.cmd.Wait())
	return m.now()
}

func (m *member) kill() {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.read
	_ = m.cmd.Wait()
}

// arena is a server with a role that may have so many connections and no more, and somebody who watches.
type arena struct {
	server *pgtest.Server
	root   string // DSN of a superuser
	app    string // DSN of the role
	tokens int

	most, beside atomic.Int64 // tokens and connections at once
	watching     sync.WaitGroup
	stop         context.CancelFunc
}

// newArena makes one for a fleet with so many tokens, and so many processes at a time.
func newArena(t *testing.T, tokens, processes int, settings ...string) *arena {
	t.Helper()
	settings = append(settings, "max_connections=200")
	a := &arena{server: pgtest.Start(t, settings...), tokens: tokens}
	a.root = a.server.Database(t)
	a.exec(t, fmt.Sprintf("CREATE ROLE app LOGIN PASSWORD '%s' CONNECTION LIMIT %d", pgtest.Verifier("app"), tokens+2*processes),
		"CREATE TABLE ledger (at timestamptz DEFAULT now())", "GRANT ALL ON ledger TO app")
	a.app = strings.Replace(a.root, "lifeguard:secret@", "app:app@", 1)
	require.NotEqual(t, a.root, a.app)
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.watching.Go(func() { a.watch(ctx) })
	t.Cleanup(func() {
		stop()
		a.watching.Wait()
		t.Logf("at most %d tokens of %d were held, by %d connections of the fleet and its sessions", a.most.Load(), tokens, a.beside.Load())
		assert.LessOrEqual(t, a.most.Load(), int64(tokens), "tokens held at once")
		assert.LessOrEqual(t, a.beside.Load(), int64(tokens+2*processes), "connections at once")
	})
	return a
}

const (
	heldTokens = `SELECT count(DISTINCT objid) FROM pg_locks l
	WHERE locktype = 'advisory' AND objsubid = 2 AND objid < 1000000 AND mode = 'ShareLock'`
	fleetConnections = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
)

func (a *arena) open() *sql.DB {
	c, err := pq.NewConnector(a.root)
	if err != nil {
		panic(err)
	}
	return sql.OpenDB(c)
}

func (a *arena) exec(t *testing.T, statements ...string) {
	t.Helper()
	db := a.open()
	defer func() { assert.NoError(t, db.Close()) }()
	for _, s := range statements {
		_, err := db.Exec(s)
		require.NoError(t, err, s)
	}
}

func (a *arena) count(t *testing.T, query string) (n int) {
	t.Helper()
	db := a.open()
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.QueryRow(query).Scan(&n))
	return n
}

// locks shows who holds what.
func (a *arena) locks(t *testing.T) (text string) {
	db := a.open()
	defer func() { assert.NoError(t, db.Close()) }()
	assert.NoError(t, db.QueryRow(`SELECT coalesce(string_agg(concat_ws(' ', pid, application_name, state, client_port, backend_start::time, query_start::time, locks, left(query, 30)), E'\n'), '')
		FROM (SELECT pid, (SELECT string_agg(concat(mode, ' ', objid), ', ' ORDER BY objid) FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory') AS locks,
		application_name, state, client_port, backend_start, query_start, query FROM pg_stat_activity a WHERE usename = 'app') x`).Scan(&text))
	return text
}

// watch notes the most that were there at once. The server may be down.
func (a *arena) watch(ctx context.Context) {
	db := a.open()
	defer func() { _ = db.Close() }()
	for ctx.Err() == nil {
		var tokens, connections int64
		err := db.QueryRowContext(ctx, "SELECT ("+heldTokens+"), ("+fleetConnections+")").Scan(&tokens, &connections)
		if err == nil {
			a.most.Store(max(a.most.Load(), tokens))
			a.beside.Store(max(a.beside.Load(), connections))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// dsn is the role's with parameters of lifeguard's.
func (a *arena) dsn(limit int, more string) string {
	return fmt.Sprintf("%s&fleet_limit=%d&connection_limit=%d&leak_threshold=0%s", a.app, a.tokens, limit, more)
}

// eventually waits for something that takes time, and says how long it took.
func eventually(t *testing.T, within time.Duration, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > within {
			require.Fail(t, what, "not within %v", within)
		}
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(began)
	t.Logf("%s after %v", what, took.Round(time.Millisecond))
	return took
}
