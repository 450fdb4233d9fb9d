package poolpage

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

const evil = `<script>alert(1)</script>`

func open(t testing.TB, opts ...lifeguard.Option) (*sql.DB, *fakedriver.Server) {
	t.Helper()
	server := fakedriver.New()
	db, err := lifeguard.OpenDB(server.Connector(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db, server
}

func mounted(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/debug/pool/", h)
	return mux
}

func get(h http.Handler, path, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const browser = "text/html,application/xhtml+xml,*/*;q=0.8"

func TestRoutes(t *testing.T) {
	db, _ := open(t)
	h := Handler(db)
	under := mounted(h)
	stripped := http.NewServeMux()
	stripped.Handle("/pool/", http.StripPrefix("/pool", h))
	exact := http.NewServeMux()
	exact.Handle("/pool", h)
	for _, c := range []struct {
		h            http.Handler
		method, path string
		status       int
	}{
		{under, "GET", "/debug/pool/", 200},
		{under, "GET", "/debug/pool/page.css", 200},
		{under, "GET", "/debug/pool/page.js", 200},
		{under, "GET", "/debug/pool/page.html", 404},
		{under, "GET", "/debug/pool/other/", 404},
		{under, "GET", "/debug/pool/assets/page.css", 404},
		{under, "GET", "/debug/pool/?pool=other", 404},
		{under, "GET", "/debug/pool/events?pool=other", 404},
		{under, "POST", "/debug/pool/", 405},
		{under, "HEAD", "/debug/pool/", 405},
		{under, "DELETE", "/debug/pool/page.css", 405},
		{under, "POST", "/debug/pool/limit", 404}, // without WithActions
		{under, "POST", "/debug/pool/reset", 404},
		{stripped, "GET", "/pool/", 200},
		{stripped, "GET", "/pool/page.js", 200},
		{stripped, "GET", "/pool/nothing", 404},
		{stripped, "POST", "/pool/", 405},
		{exact, "GET", "/pool", 301},
	} {
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		assert.Equal(t, c.status, w.Code, "%s %s", c.method, c.path)
		if c.status == 405 {
			assert.Equal(t, "GET", w.Header().Get("Allow"))
		}
	}
}

func TestPageIsLockedIn(t *testing.T) {
	db, _ := open(t)
	h := mounted(Handler(db, WithActions()))
	w := get(h, "/debug/pool/", browser)
	header := w.Result().Header
	csp := header.Get("Content-Security-Policy")
	assert.Contains(t, csp, "default-src 'none'")
	assert.NotContains(t, csp, "unsafe")
	assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
	assert.Equal(t, "no-store", header.Get("Cache-Control"))
	assert.Empty(t, header.Get("Set-Cookie"))
	page := w.Body.String()
	assert.NotContains(t, page, "http://")
	assert.NotContains(t, page, "https://")
	assert.NotContains(t, page, " style=")
	assert.NotContains(t, page, "<style")
	assert.NotRegexp(t, ` on[a-z]+=`, page)
	assert.Equal(t, strings.Count(page, "<script"), strings.Count(page, `<script src="page.js"`))
	for _, file := range []string{"page.css", "page.js"} {
		text := get(h, "/debug/pool/"+file, "").Body.String()
		assert.NotContains(t, text, "//cdn")
		assert.NotContains(t, text, "http")
	}
}

func TestForms(t *testing.T) {
	db, _ := open(t, lifeguard.WithPoolName("orders"))
	h := mounted(Handler(db))
	assert.Contains(t, get(h, "/debug/pool/", browser).Body.String(), "<!doctype html>")
	plain := get(h, "/debug/pool/", "*/*") // curl's
	assert.Contains(t, plain.Header().Get("Content-Type"), "text/plain")
	assert.Contains(t, plain.Body.String(), "orders  OK")
	w := get(h, "/debug/pool/", "application/json")
	var r struct {
		Pools []struct {
			Name  string
			Limit int
			Level string
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &r))
	require.Len(t, r.Pools, 1)
	assert.Equal(t, "orders", r.Pools[0].Name)
	assert.Equal(t, 10, r.Pools[0].Limit)
	assert.Equal(t, "ok", r.Pools[0].Level)
}

// A name, a query, a file and a function may have anything in them.
func TestEscaping(t *testing.T) {
	db, _ := open(t, lifeguard.WithPoolName(evil), lifeguard.WithLeakThreshold(time.Millisecond))
	conn, err := takeFrom(t.Context(), db)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), `UPDATE "`+evil+`" SET a = 'hunter2', b = 424242`)
	require.NoError(t, err)
	h := mounted(Handler(db))
	leak := func() bool { return strings.Contains(get(h, "/debug/pool/", "").Body.String(), "still held") }
	require.Eventually(t, leak, 10*time.Second, 10*time.Millisecond)
	page := get(h, "/debug/pool/", browser).Body.String()
	assert.NotContains(t, page, evil)
	assert.Equal(t, 1, strings.Count(page, "<script"))
	assert.Contains(t, page, "&lt;script&gt;")
	for _, accept := range []string{browser, "application/json", ""} {
		text := get(h, "/debug/pool/", accept).Body.String()
		assert.NotContains(t, text, "hunter2")
		assert.NotContains(t, text, "424242")
	}

	w := &watched{}
	holder := &Holder{Caller: evil + " (" + evil + ".go:1)", Query: evil, TraceID: evil, Stack: []Frame{{evil, evil, 1}}}
	f := &frame{pool: Pool{
		Name: evil, Verdict: evil, Level: Level(evil), Limit: 1, Waiting: 1, Order: evil, Server: &Server{Error: evil},
		Slots:   []Slot{{Serial: 1, State: evil, Holder: holder, Server: &ServerSession{State: evil, WaitEvent: evil, BlockedBy: []string{evil}}}},
		Waiters: []Waiter{{Caller: evil, Stack: holder.Stack}}, Shapes: []Shape{{Query: evil, Caller: evil, LastError: evil}},
		Leaks: []Leak{{Kind: evil, Outcome: evil, Holder: *holder}}, Events: []Event{{Kind: evil, Text: evil, Count: 2}},
	}}
	for _, p := range w.renderPanels(f) {
		assert.NotContains(t, strings.ToLower(p.html), "<script", p.key)
		if p.key != "charts" {
			assert.Contains(t, p.html, "&lt;script&gt;", p.key)
		}
	}
}

// A pool of thousands does not make a page of megabytes.
func TestPageOfALargePool(t *testing.T) {
	f := &frame{pool: Pool{Limit: 5000}}
	for i := range 5000 {
		h := &Holder{Caller: "shop.buy (buy.go:7)", Held: Seconds(i), Query: strings.Repeat("x", 2000)}
		f.pool.Slots = append(f.pool.Slots, Slot{Serial: uint64(i + 1), State: "held", Holder: h})
	}
	w, size := &watched{}, 0
	for _, p := range w.renderPanels(f) {
		size += len(p.html)
		switch p.key {
		case "slots":
			assert.Equal(t, maxCells, strings.Count(p.html, `class="cell `))
			assert.True(t, strings.Contains(p.html, "4400 more are not drawn"))
			assert.False(t, strings.Contains(p.html, `href="#h1"`), "it is not among the holders")
		case "holders":
			assert.Equal(t, maxHolders, strings.Count(p.html, "<details"))
			assert.True(t, strings.Contains(p.html, `id="h5000"`), "the longest")
			assert.True(t, strings.Contains(p.html, "4900 more"))
		}
	}
	assert.Less(t, size, 1<<20)
}

//line <script>alert(1)</script>.go:1
func takeFrom(ctx context.Context, db *sql.DB) (*sql.Conn, error) { return db.Conn(ctx) }

//line handler_test.go:208
func TestTableKeepsEscapeSequencesFromTheTerminal(t *testing.T) {
	var b strings.Builder
	writeTable(&b, Report{Pools: []Pool{{Name: "a\x1b[2Jb", Verdict: "x\r\ny", Events: []Event{{Text: "one\n\ttwo\x07"}}}}})
	assert.NotContains(t, b.String(), "\x1b")
	assert.NotContains(t, b.String(), "\r")
	assert.NotContains(t, b.String(), "\x07")
	assert.Contains(t, b.String(), "one  two")
}

func TestForeignHandle(t *testing.T) {
	plain := sql.OpenDB(fakedriver.New().Connector())
	defer plain.Close()
	for name, db := range map[string]*sql.DB{"plain": plain, "nil": nil} {
		h := mounted(Handler(db, WithActions()))
		w := get(h, "/debug/pool/", browser)
		assert.Equal(t, http.StatusInternalServerError, w.Code, name)
		assert.Contains(t, w.Body.String(), "not opened through lifeguard", name)
		assert.Contains(t, get(h, "/debug/pool/", "application/json").Body.String(), `"error": "This handle was not opened`, name)
		assert.Contains(t, get(h, "/debug/pool/", "").Body.String(), "lifeguard.Open", name)
		assert.Equal(t, 404, get(h, "/debug/pool/events", "").Code, name)
	}
	db, _ := open(t)
	h := mounted(Handler(db, WithHandles(plain, db)))
	w := get(h, "/debug/pool/", browser)
	assert.Equal(t, 200, w.Code)
	assert.Equal(t, 2, strings.Count(w.Body.String(), `<a href="?pool=`), "one pool is shown once")
	assert.Contains(t, get(h, "/debug/pool/?pool="+url.QueryEscape("not lifeguard's"), browser).Body.String(), "not opened through lifeguard")
}

// Pools may have one name: those of OpenDB have their driver's, those of two users their server's.
func TestPoolsOfOneName(t *testing.T) {
	first, _ := open(t)
	second, _ := open(t)
	third, _ := open(t)
	h := mounted(Handler(first, WithHandles(second, third), WithActions()))
	var r Report
	require.NoError(t, json.Unmarshal(get(h, "/debug/pool/", "application/json").Body.Bytes(), &r))
	names := map[string]bool{}
	for _, p := range r.Pools {
		names[p.Name] = true
	}
	require.Len(t, names, 3)
	name := r.Pools[1].Name
	assert.Contains(t, name, " (2)")
	page := get(h, "/debug/pool/?pool="+url.QueryEscape(name), browser).Body.String()
	assert.Contains(t, page, `<h1>`+name+`</h1>`)
	assert.Contains(t, page, `name="pool" value="`+name+`"`)
	assert.Equal(t, 303, post(h, "/debug/pool/limit", url.Values{"pool": {name}, "limit": {"3"}}.Encode(), "same-origin").Code)
	for db, limit := range map[*sql.DB]int{first: 10, second: 3, third: 10} {
		p, _ := lifeguard.PoolOf(db)
		assert.Equal(t, limit, p.Stats().Limit)
	}
}

func post(h http.Handler, path, form, site string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", site)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestActions(t *testing.T) {
	db, _ := open(t)
	p, _ := lifeguard.PoolOf(db)
	h := mounted(Handler(db, WithActions()))
	post := func(action, form, site string) *httptest.ResponseRecorder {
		return post(h, "/debug/pool/"+action, form, site)
	}
	assert.Equal(t, 403, post("limit", "limit=3", "cross-site").Code)
	assert.Equal(t, 403, post("reset", "", "same-site").Code)
	assert.Equal(t, 10, p.Stats().Limit)
	w := post("limit", "limit=3", "same-origin")
	assert.Equal(t, 303, w.Code)
	assert.Equal(t, 3, p.Stats().Limit)
	for form, says := range map[string]string{"limit=many": "limit=20", "": "limit=20", "limit=0": "connection_limit", "limit=99999": "connection_limit"} {
		w := post("limit", form, "same-origin")
		assert.Equal(t, 400, w.Code, form)
		assert.Contains(t, w.Body.String(), says, form)
	}
	assert.Equal(t, 404, post("reset", "pool=other", "same-origin").Code)
	// What cannot be read may have named another pool than the first.
	assert.Equal(t, 400, post("limit", "limit=5&pool="+strings.Repeat("x", 5000), "same-origin").Code)
	assert.Equal(t, 400, post("reset", "pool=%zz", "same-origin").Code)
	assert.Equal(t, 3, p.Stats().Limit)
	assert.Zero(t, p.Stats().Closed)
	require.NoError(t, db.PingContext(t.Context()))
	assert.Equal(t, 303, post("reset", "", "same-origin").Code)
	require.Eventually(t, func() bool { return p.Stats().Closed == 1 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, 405, get(h, "/debug/pool/limit", "").Code)
	text := get(h, "/debug/pool/", "").Body.String()
	assert.Contains(t, text, "connection_limit from 10 to 3")
	assert.Contains(t, text, "reset")
}

// After an action the browser goes to the page, wherever that is mounted.
func TestActionsLeadBack(t *testing.T) {
	db, _ := open(t, lifeguard.WithPoolName("a & b"))
	h := Handler(db, WithActions())
	for _, at := range []http.Handler{mounted(h), http.StripPrefix("/debug/pool", h)} {
		w := post(at, "/debug/pool/reset", "", "same-origin")
		require.Equal(t, 303, w.Code)
		place, err := url.Parse(w.Header().Get("Location"))
		require.NoError(t, err)
		page := (&url.URL{Path: "/debug/pool/reset"}).ResolveReference(place)
		assert.Equal(t, "/debug/pool/?pool=a+%26+b", page.String())
		assert.Equal(t, 200, get(at, page.String(), browser).Code)
	}
}

// stream is a client that reads events.
func stream(t *testing.T, ctx context.Context, base string) *bufio.Reader {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/debug/pool/events", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	assert.True(t, resp.Close, "the stream's deadline would end a later answer on the same connection")
	t.Cleanup(func() { _ = resp.Body.Close() })
	return bufio.NewReader(resp.Body)
}

func next(t *testing.T, from *bufio.Reader) (e event) {
	t.Helper()
	line, err := from.ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &e))
	_, err = from.ReadString('\n')
	require.NoError(t, err)
	return e
}

func TestWatchersDoNotKeepTheServer(t *testing.T) {
	db, _ := open(t)
	server := httptest.NewServer(mounted(Handler(db)))
	defer server.Close()
	r := stream(t, t.Context(), server.URL)
	assert.Len(t, next(t, r).Panels, len(panels), "the first event has all")
	require.NoError(t, server.Config.Shutdown(t.Context()))
	_, err := io.Copy(io.Discard, r)
	assert.NoError(t, err, "the stream has an end")
}

func TestWatchersEndWithThePool(t *testing.T) {
	db, _ := open(t)
	server := httptest.NewServer(mounted(Handler(db)))
	defer server.Close()
	r := stream(t, t.Context(), server.URL)
	next(t, r)
	require.NoError(t, db.Close())
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Contains(t, string(rest), "The pool is closed.")
}

// discard is a response that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
func (d discard) Flush()                      {}

// goroutines counts those of this test's bubble that run this package's methods, or were started by one.
func goroutines() (n int) {
	all := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, "synctest bubble") && strings.Contains(stack, "lifeguard/poolpage.(*") {
			n++
		}
	}
	return n
}

// A handler costs no goroutine, and a page that nobody closes one: that of its request, which ends with it.
func TestGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, _ := open(t)
		require.NoError(t, db.PingContext(t.Context()))
		h := mounted(Handler(db))
		time.Sleep(every * 3 / 2) // a look
		synctest.Wait()
		assert.Zero(t, goroutines())
		const watchers = 20
		ctx, leave := context.WithCancel(t.Context())
		for range watchers {
			go h.ServeHTTP(discard{http.Header{}}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/debug/pool/events", nil))
		}
		time.Sleep(every * 5 / 2)
		synctest.Wait()
		assert.Equal(t, watchers, goroutines())
		leave()
		synctest.Wait()
		assert.Zero(t, goroutines())
	})
}

func ExampleHandler() {
	db, err := sql.Open("lifeguard", "postgres://app:secret@db/shop?connection_limit=10")
	if err != nil {
		panic(err)
	}
	defer db.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/pool/", Handler(db))

	// What curl http://localhost:6060/debug/pool/ prints:
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("GET", "/debug/pool/", nil))
	lines := strings.Split(w.Body.String(), "\n")
	fmt.Println(lines[1])
	fmt.Println(lines[3])
	// Output:
	// 0 of 10 in use, nobody waits.
	// limit 10  open 0  in use 0  idle 0  opening 0  waiting 0 (first come, first served, longest 0)
}

func ExampleWithHandles() {
	orders, _ := sql.Open("lifeguard", "postgres://app:secret@db/orders")
	stock, _ := sql.Open("lifeguard", "postgres://app:secret@db/stock")
	defer orders.Close()
	defer stock.Close()
	http.Handle("/debug/pools/", Handler(orders, WithHandles(stock)))
}

// Whoever reaches this page may change the limit: keep it behind the application's own authentication.
func ExampleWithActions() {
	db, _ := sql.Open("lifeguard", "postgres://app:secret@db/shop")
	defer db.Close()
	http.Handle("/debug/admin/", Handler(db, WithActions()))
}

func ExampleWithServerView() {
	db, _ := sql.Open("lifeguard", "postgres://app:secret@db/shop")
	defer db.Close()
	http.Handle("/debug/server/", Handler(db, WithServerView("postgres://monitor:secret@db/shop")))
}
