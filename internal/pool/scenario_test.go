package pool_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// long are the scenarios that take seconds of real time. -short leaves them out, and so does the race detector, with which they
// take ten times as long: `make test` plays them without it.
var long = []string{
	"a long outage is logged again and again, and ever more rarely",
	"twice the capacity",
	"four times the capacity",
	"lifetimes under load cost no caller anything",
	"lifetimes end at different times",
}

// TestScenarios plays the scenarios in testdata, which say in data what a pool does. See testdata/README.md.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		scenarios, err := parseFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			for _, s := range scenarios {
				t.Run(s.title, func(t *testing.T) {
					if (testing.Short() || pooltest.RaceEnabled) && slices.Contains(long, s.title) {
						t.Skip("it takes long")
					}
					synctest.Test(t, func(t *testing.T) {
						for _, p := range s.play() {
							t.Errorf("%s:%d: %s", s.file, p.line, p.text)
						}
					})
				})
			}
		})
	}
}

// problem is something that was not as expected; line is where it was expected.
type problem struct {
	line int
	text string
}

// world is a scenario that is being played.
type world struct {
	scenario *scenario
	server   *server
	pool     *lifeguard.Pool
	handles  map[string]*sql.DB
	log      *records
	start    time.Time

	callers map[string]*caller
	all     []*caller
	moving  sync.WaitGroup // lines given to callers and not gone through yet
	present sync.WaitGroup // callers

	mu       sync.Mutex
	rounds   []*round                // guarded by mu, and what they point to
	served   int                     // guarded by mu
	contexts map[string]namedContext // guarded by mu
	most     int                     // guarded by mu; the highest limit so far
	closing  bool                    // guarded by mu
	problems []problem
}

type namedContext struct {
	context.Context
	cancel context.CancelFunc
}

// servers are those that the driver "scenario" knows, by the DSN that is left for the driver.
var (
	servers sync.Map // string to driver.Connector
	opened  atomic.Int64
)

func init() { sql.Register("scenario", scenarioDriver{}) }

type scenarioDriver struct{}

func (d scenarioDriver) Open(dsn string) (driver.Conn, error) {
	c, err := d.OpenConnector(dsn)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background())
}

func (scenarioDriver) OpenConnector(dsn string) (driver.Connector, error) {
	s, ok := servers.Load(strings.TrimSpace(dsn))
	if !ok {
		return nil, fmt.Errorf("no scenario plays at %q", dsn)
	}
	return scenarioConnector{s.(driver.Connector)}, nil
}

// scenarioConnector has the driver that database/sql knows, which Open asks for connectors again.
type scenarioConnector struct{ driver.Connector }

func (scenarioConnector) Driver() driver.Driver { return scenarioDriver{} }

// patience is how long after its last line a scenario may go on.
const patience = 10 * time.Minute

// play goes through the scenario in a bubble, and says what was not as expected.
func (s *scenario) play() []problem {
	w := &world{scenario: s, callers: map[string]*caller{}, contexts: map[string]namedContext{}, handles: map[string]*sql.DB{}}
	if err := w.open(); err != nil {
		return []problem{{s.line, err.Error()}}
	}
	for _, e := range s.events {
		time.Sleep(e.at - w.now())
		synctest.Wait()
		w.apply(e)
	}
	if !within(patience, w.moving.Wait) {
		w.stuck()
	}
	synctest.Wait()
	for _, e := range s.expects {
		if e.metric != "" {
			w.problems = append(w.problems, e.checkMetric(w)...)
		}
	}
	for _, e := range s.expects {
		if e.metric == "" {
			w.problems = append(w.problems, e.check(w)...)
		}
	}
	w.end()
	return w.problems
}

// within runs f, and tells whether it returned in time.
func within(d time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() { f(); close(done) }() // ends with the bubble at the latest
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// open makes the server, the handles and their pool.
func (w *world) open() error {
	s := w.scenario
	w.server, w.log, w.start = newServer(), &records{panics: s.loggerPanics}, time.Now()
	for _, r := range s.setup {
		w.server.apply(r)
	}
	n := opened.Add(1)
	host := fmt.Sprintf("host=scenario%d", n)
	var opts []fakedriver.ConnectorOption
	if s.withoutReset {
		opts = append(opts, fakedriver.WithoutReset())
	}
	servers.Store(host, w.server.Connector(opts...))
	dsn := fmt.Sprintf("%s pool_name=scenario%d %s", host, n, strings.Join(s.settings, " "))
	for _, h := range s.handles {
		db, err := lifeguard.Open("scenario", strings.TrimSpace(dsn), lifeguard.WithLogger(slog.New(w.log)))
		if err != nil {
			return err
		}
		if h.maxOpen != 0 {
			db.SetMaxOpenConns(h.maxOpen)
		}
		w.handles[h.name] = db
	}
	w.pool, _ = lifeguard.PoolOf(w.handles["main"])
	w.most = w.pool.Config().ConnectionLimit
	return nil
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// apply has one thing happen, and waits until all it sets off has come to rest.
func (w *world) apply(e event) {
	switch {
	case e.rule != nil:
		w.server.apply(*e.rule)
	case e.check != nil:
		w.problems = append(w.problems, e.check.checkMetric(w)...)
	case e.move != nil:
		for _, name := range e.move.callers {
			c := w.callers[name]
			if c == nil || e.move.fresh {
				w.present.Add(1)
				c = w.newCaller(name)
				w.callers[name] = c
				w.all = append(w.all, c)
			}
			w.moving.Add(1)
			c.moves <- e.move.steps
			synctest.Wait() // so that the next comes after this one
		}
	}
	synctest.Wait()
}

// stuck tells of the callers that wait for ever, and has them end.
func (w *world) stuck() {
	w.mu.Lock()
	for _, r := range w.rounds {
		if r.began && !r.over {
			w.problems = append(w.problems, problem{w.scenario.line,
				fmt.Sprintf("%s, which came at %v, has no answer %v after the last line", r.caller, r.arrived, patience)})
		}
	}
	w.mu.Unlock()
	w.closed()
	for _, db := range w.handles {
		db.Close()
	}
	within(time.Minute, w.moving.Wait)
}

// end returns what callers still have, and looks whether all is as it must be after any scenario.
func (w *world) end() {
	complain := func(format string, args ...any) {
		w.problems = append(w.problems, problem{w.scenario.line, "in the end: " + fmt.Sprintf(format, args...)})
	}
	w.server.heal()
	for _, c := range w.all {
		close(c.moves)
	}
	w.mu.Lock()
	for _, c := range w.contexts {
		defer c.cancel()
	}
	closing, most := w.closing, w.most
	w.mu.Unlock()
	if !within(time.Minute, w.present.Wait) {
		complain("a caller cannot return what it has")
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
	if st := w.pool.Stats(); st.InUse != 0 || st.Waiting != 0 {
		complain("%d in use, %d waiting", st.InUse, st.Waiting)
	}
	if !closing {
		if err := w.takeAll(); err != nil {
			complain("%v", err)
		}
	}
	for name, db := range w.handles {
		if err := db.Close(); err != nil {
			complain("closing %s: %v", name, err)
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if n := w.server.Open(); n != 0 {
		complain("%d connections are open", n)
	}
	if n := w.server.MaxOpen(); n > most {
		complain("%d connections were open at a time, the limit was %d", n, most)
	}
	for _, v := range w.server.Violations() {
		complain("%s", v)
	}
}

// takeAll checks that as many connections as the limit says can be had at once, and used: no slot was lost.
func (w *world) takeAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	limit := w.pool.Stats().Limit
	if most := w.scenario.handles[0].maxOpen; most > 0 {
		limit = min(limit, most)
	}
	for i := range limit {
		c, err := w.handles["main"].Conn(ctx)
		if err != nil {
			return fmt.Errorf("connection %d of %d cannot be had: %w", i+1, limit, err)
		}
		defer c.Close()
		if _, err := c.ExecContext(ctx, "SELECT 1"); err != nil {
			return fmt.Errorf("connection %d of %d does not work: %w", i+1, limit, err)
		}
	}
	return nil
}

func (w *world) context(name string) namedContext {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.contexts[name]
	if !ok {
		c.Context, c.cancel = context.WithCancel(context.Background())
		w.contexts[name] = c
	}
	return c
}

func (w *world) mayHave(limit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = max(w.most, limit)
}

func (w *world) closed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
}

// records is a slog.Handler that keeps what is logged.
type records struct {
	panics bool
	mu     sync.Mutex
	texts  []string // guarded by mu
}

func (l *records) Enabled(context.Context, slog.Level) bool { return true }
func (l *records) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *records) WithGroup(string) slog.Handler            { return l }

func (l *records) Handle(_ context.Context, r slog.Record) error {
	if l.panics {
		panic("the logger panics")
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, text)
	return nil
}

func (l *records) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.texts {
		if strings.Contains(t, text) {
			n++
		}
	}
	return n
}
