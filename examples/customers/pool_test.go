package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// hold takes a connection out of the pool, as a slow transaction does.
func hold(t *testing.T, d *service.Database) (release func()) {
	t.Helper()
	tx, err := d.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT count(*) FROM customers"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
			t.Error(err)
		}
	}
}

func pool(t *testing.T, d *service.Database) *lifeguard.Pool {
	t.Helper()
	p, ok := lifeguard.PoolOf(d.DB)
	if !ok {
		t.Fatal("no pool of lifeguard's behind the handle")
	}
	return p
}

func TestPoolTimeout(t *testing.T) {
	var log servicetest.Transcript
	// Long enough for the first dial on a busy machine, and shorter than what /healthz waits.
	d := open(t, servicetest.With(pgtest.DSN(t), "connection_limit", "1", "pool_timeout", "500ms"))
	h := newHandler(d, logTo(&log))
	release := hold(t, d)

	for _, request := range []struct{ method, path, body string }{
		{"GET", "/api/customers", ""},
		{"GET", "/api/customers/1", ""},
		{"POST", "/api/customers", `{"name": "New", "email": "new@example.com"}`},
	} {
		w := servicetest.Call(h, request.method, request.path, request.body)
		got := servicetest.Decode[service.Refusal](t, w, http.StatusServiceUnavailable)
		if got.Code != "pool_timeout" || !strings.Contains(got.Message, "try again") {
			t.Errorf("%s %s is answered with %+v", request.method, request.path, got)
		}
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: no Retry-After", request.method, request.path)
		}
		for _, inside := range []string{"connection_limit", "lifeguard", "SELECT", "127.0.0.1"} {
			if strings.Contains(w.Body.String(), inside) {
				t.Errorf("the client is told about %q: %s", inside, w.Body)
			}
		}
	}
	sick := servicetest.Decode[service.HealthReport](t, servicetest.Call(h, "GET", "/healthz", ""), http.StatusServiceUnavailable)
	if sick.Status != "pool_timeout" || sick.Pool == nil || sick.Pool.InUse != 1 || sick.Pool.Timeouts < 4 {
		t.Errorf("health %+v, pool %+v", sick, sick.Pool)
	}
	if got := strings.Count(log.String(), "connection_limit=1, 1 in use"); got != 4 {
		t.Errorf("%d of 4 timeouts in the log with what the pool says about them:\n%s", got, &log)
	}

	release()
	servicetest.Decode[[]customer](t, servicetest.Call(h, "GET", "/api/customers", ""), http.StatusOK)
	servicetest.Decode[service.HealthReport](t, servicetest.Call(h, "GET", "/healthz", ""), http.StatusOK)
	if n := count(t, d); n != 100 {
		t.Errorf("%d customers, want 100: a request that was turned away has been carried out", n)
	}
}

func TestPoolClosedWhileWaiting(t *testing.T) {
	d := open(t, servicetest.With(pgtest.DSN(t), "connection_limit", "1"))
	h := handlerOf(t, d)
	release := hold(t, d)
	defer release()

	answer := make(chan *httptest.ResponseRecorder)
	go func() { answer <- servicetest.Call(h, "GET", "/api/customers", "") }()
	servicetest.Await(t, "the request to wait for a connection", func() bool { return pool(t, d).Stats().Waiting == 1 })
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	w := <-answer
	got := servicetest.Decode[service.Refusal](t, w, http.StatusServiceUnavailable)
	if got.Code != "pool_closed" || w.Header().Get("Retry-After") == "" {
		t.Errorf("answered with %+v", got)
	}
}

// A client that leaves takes its work with it: first the place in the queue,
// then the statement that runs on the server.
func TestClientLeaves(t *testing.T) {
	dsn := pgtest.DSN(t)
	d := open(t, servicetest.With(dsn, "connection_limit", "1"))
	server := httptest.NewServer(handlerOf(t, d))
	defer server.Close()
	leave := func(while string, begun func() bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/api/customers", nil)
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			response, err := http.DefaultClient.Do(request)
			if err == nil {
				response.Body.Close()
			}
			failed <- err
		}()
		servicetest.Await(t, while, begun)
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want context.Canceled", err)
		}
	}

	release := hold(t, d)
	leave("the request to wait for a connection", func() bool { return pool(t, d).Stats().Waiting == 1 })
	servicetest.Await(t, "nobody to wait for a connection", func() bool { return pool(t, d).Stats().Waiting == 0 })
	release()

	observer := servicetest.Plain(t, dsn)
	unlock := lockTable(t, observer)
	leave("the query to run into the lock", func() bool { return blocked(t, observer) == 1 })
	servicetest.Await(t, "the query to be cancelled", func() bool { return blocked(t, observer) == 0 })
	unlock()
	servicetest.Decode[[]customer](t, servicetest.Call(handlerOf(t, d), "GET", "/api/customers", ""), http.StatusOK)
}

func TestDatabaseAway(t *testing.T) {
	server := pgtest.Start(t)
	var log servicetest.Transcript
	d := open(t, servicetest.With(server.Database(t), "pool_timeout", "2s"))
	h := newHandler(d, logTo(&log))
	server.Stop(t, "fast")

	w := servicetest.Call(h, "GET", "/api/customers", "")
	if got := servicetest.Decode[service.Refusal](t, w, http.StatusServiceUnavailable); got.Code != "database_unreachable" {
		t.Errorf("answered with %+v; log:\n%s", got, &log)
	}
	sick := servicetest.Decode[service.HealthReport](t, servicetest.Call(h, "GET", "/healthz", ""), http.StatusServiceUnavailable)
	if sick.Status == "ok" {
		t.Errorf("healthy without a database: %+v", sick)
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the log shows the password:\n%s", &log)
	}
	server.Start(t)
	servicetest.Decode[[]customer](t, servicetest.Call(h, "GET", "/api/customers", ""), http.StatusOK)
}

func TestRefusalFor(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{&lifeguard.PoolTimeoutError{Limit: 1}, 503, "pool_timeout"},
		{&lifeguard.PoolTimeoutError{Limit: 1, Err: refused}, 503, "database_unreachable"},
		{fmt.Errorf("listing: %w", lifeguard.ErrPoolClosed), 503, "pool_closed"},
		{refused, 503, "database_unreachable"},
		{&pq.Error{Code: "57P01"}, 503, "database_unreachable"},
		{&pq.Error{Code: "53300"}, 503, "database_unreachable"},
		{context.DeadlineExceeded, 503, "timeout"},
		{&pq.Error{Code: "42P01"}, 500, "internal"},
		{errors.New("secret detail"), 500, "internal"},
		{errEmailTaken, 409, "email_taken"},
		{errNoSuchCustomer, 404, "not_found"},
	} {
		got := service.RefusalFor(tt.err)
		if got.Status != tt.status || got.Code != tt.code || strings.Contains(got.Message, "secret") {
			t.Errorf("%v is answered with %d %+v, want %d %s", tt.err, got.Status, got, tt.status, tt.code)
		}
	}
}
