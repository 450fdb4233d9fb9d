package service

import (
	"context"
	"database/sql"
	"errors"
	"html/template"
	"net/http"
	"sync"
	"time"

	"github.com/go-lifeguard/lifeguard"
)

// What this file does is for trying lifeguard out: a page of links that make
// trouble on purpose. A real service leaves it out.

const (
	demoSeconds = 2                // of a slow query, unless the link says otherwise
	demoMost    = 30               // seconds
	leakFor     = 90 * time.Second // after that a leaked connection is given back, so that others can try it too
)

var landing = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Name}}</title>
<style>body { font: 1.1em/1.6 system-ui, sans-serif; max-width: 40em; margin: 2em auto; padding: 0 1em; color-scheme: light dark }</style>
<h1>The {{.Name}} service</h1>
<p>It runs on {{.Kind}}, behind lifeguard. Open <a href="/debug/pool/" target="_blank">the pool's page</a> beside this one, and make trouble:</p>
<ul>
<li><a href="/demo/slow" rel="nofollow">a slow query</a>: it takes {{.Seconds}} seconds, and then stands under “Slow and failed queries”</li>
<li><a href="/demo/leak" rel="nofollow">a leak</a>: a connection is taken and not returned for {{.Leak}}; the holder is this line of code</li>
<li><a href="/demo/full" rel="nofollow">a full pool</a>: more slow queries than there are connections; the others wait in the queue</li>
</ul>
<p>What else there is:</p>
<ul>
{{range .Links}}<li><a href="{{.}}">{{.}}</a></li>
{{end}}</ul>
</html>
`))

// demo makes trouble on purpose.
type demo struct {
	API
	name  string
	links []string
}

// mount adds the landing page and what its links do.
func (d demo) mount(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", d.landing)
	mux.HandleFunc("GET /demo/slow", d.Answer(d.slow))
	mux.HandleFunc("GET /demo/leak", d.Answer(d.leak))
	mux.HandleFunc("GET /demo/full", d.Answer(d.full))
}

func (d demo) landing(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	err := landing.Execute(w, map[string]any{
		"Name": d.name, "Kind": d.Database.Kind, "Seconds": demoSeconds, "Leak": leakFor,
		"Links": append(d.links, "/healthz", "/metrics"),
	})
	if err != nil {
		d.Log.Debug("the client is gone", "err", err)
	}
}

// slow runs a query that is slow.
func (d demo) slow(w http.ResponseWriter, r *http.Request) error {
	seconds, err := demoTime(r)
	if err != nil {
		return err
	}
	if err := d.Database.slowQuery(r.Context(), seconds); err != nil {
		return err
	}
	http.Redirect(w, r, "/debug/pool/", http.StatusSeeOther)
	return nil
}

// leak takes a connection and does not return it, as a function does that
// forgets to close one on some way out.
func (d demo) leak(w http.ResponseWriter, r *http.Request) error {
	conn, err := d.Database.Conn(r.Context())
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(r.Context(), "SELECT 'forgotten'"); err != nil {
		return errors.Join(err, conn.Close())
	}
	d.Database.trouble.keep(conn)
	http.Redirect(w, r, "/debug/pool/", http.StatusSeeOther)
	return nil
}

// full runs more slow queries at once than there are connections. It does not
// wait for them.
func (d demo) full(w http.ResponseWriter, r *http.Request) error {
	seconds, err := demoTime(r)
	if err != nil {
		return err
	}
	pool, ok := lifeguard.PoolOf(d.Database.DB)
	if !ok {
		return errors.New("the database is not behind lifeguard")
	}
	ctx := d.Database.trouble.context()
	for range pool.Stats().Limit + 5 {
		go func() {
			if err := d.Database.slowQuery(ctx, seconds); err != nil {
				d.Log.Warn("a query of the full pool", "err", err)
			}
		}()
	}
	http.Redirect(w, r, "/debug/pool/", http.StatusSeeOther)
	return nil
}

func demoTime(r *http.Request) (seconds int, err error) {
	query, err := Query(r)
	if err != nil {
		return 0, err
	}
	return WholeNumber(query, "seconds", demoSeconds, 1, demoMost)
}

// slowQuery takes about as many seconds. SQLite cannot sleep, so it counts, again and again.
func (d *Database) slowQuery(ctx context.Context, seconds int) error {
	if d.Kind == Postgres {
		_, err := d.ExecContext(ctx, "SELECT pg_sleep($1)", seconds)
		return err
	}
	const some = 500_000 // numbers, a third of a second
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		var n int
		if err := d.QueryRowContext(ctx,
			"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1) SELECT count(*) FROM numbers", some).Scan(&n); err != nil {
			return err
		}
	}
	return nil
}

// trouble is what demo has made and not cleared away yet.
type trouble struct {
	mu    sync.Mutex
	conns map[*sql.Conn]*time.Timer
	ctx   context.Context
	stop  context.CancelFunc
}

// keep keeps a connection that nobody returns, for leakFor.
func (t *trouble) keep(conn *sql.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		t.conns = map[*sql.Conn]*time.Timer{}
	}
	t.conns[conn] = time.AfterFunc(leakFor, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.conns, conn)
		_ = conn.Close() // nobody is left to be told
	})
}

// context is that of work which outlives its request.
func (t *trouble) context() context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx == nil {
		t.ctx, t.stop = context.WithCancel(context.Background())
	}
	return t.ctx
}

// end clears everything away.
func (t *trouble) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn, timer := range t.conns {
		timer.Stop()
		_ = conn.Close()
	}
	t.conns = nil
	if t.stop != nil {
		t.stop()
	}
}
