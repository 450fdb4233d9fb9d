package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// onEach runs a test on both databases, each new and filled.
func onEach(t *testing.T, test func(t *testing.T, h http.Handler, d *service.Database)) {
	for _, kind := range []service.Kind{service.SQLite, service.Postgres} {
		t.Run(string(kind), func(t *testing.T) {
			databaseURL := ""
			if kind == service.Postgres {
				databaseURL = pgtest.DSN(t)
			} else {
				t.Setenv("TMPDIR", t.TempDir())
			}
			d, err := app.OpenDatabase(t.Context(), databaseURL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				if err := d.Remove(); err != nil {
					t.Error(err)
				}
			}()
			test(t, newHandler(d, slog.New(slog.NewTextHandler(t.Output(), nil))), d)
		})
	}
}

func body(event, customer, seats int) string {
	return fmt.Sprintf(`{"event": %d, "customer": %d, "seats": %d}`, event, customer, seats)
}

func TestReserve(t *testing.T) {
	onEach(t, func(t *testing.T, h http.Handler, _ *service.Database) {
		w := servicetest.Call(h, "POST", "/api/reservations", body(2, 7, 3))
		added := servicetest.Decode[reservation](t, w, 201)
		if want := (reservation{ID: added.ID, Event: 2, Customer: 7, Seats: 3}); added != want || added.ID < 1 {
			t.Errorf("added %+v", added)
		}
		location := w.Header().Get("Location")
		if want := fmt.Sprintf("/api/reservations/%d", added.ID); location != want {
			t.Fatalf("Location %q, want %q", location, want)
		}
		if found := servicetest.Decode[reservation](t, servicetest.Call(h, "GET", location, ""), 200); found != added {
			t.Errorf("found %+v, want %+v", found, added)
		}
		servicetest.Decode[reservation](t, servicetest.Call(h, "POST", "/api/reservations", body(3, 7, 1)), 201)
		all := servicetest.Decode[[]reservation](t, servicetest.Call(h, "GET", "/api/reservations", ""), 200)
		if len(all) != 2 || all[0] != added {
			t.Errorf("all: %+v", all)
		}
		of := servicetest.Decode[[]reservation](t, servicetest.Call(h, "GET", "/api/reservations?event=2", ""), 200)
		if len(of) != 1 || of[0] != added {
			t.Errorf("of event 2: %+v", of)
		}
		events := servicetest.Decode[[]event](t, servicetest.Call(h, "GET", "/api/events?limit=2", ""), 200)
		if len(events) != 2 || events[0].Reserved != 0 || events[1].Reserved != 3 || events[1].Capacity != 500 {
			t.Errorf("events %+v", events)
		}
	})
}

// A reservation that is refused after its seats were taken gives them back.
func TestConflicts(t *testing.T) {
	onEach(t, func(t *testing.T, h http.Handler, d *service.Database) {
		if _, err := d.ExecContext(t.Context(), "UPDATE events SET capacity = 5 WHERE id = 1"); err != nil {
			t.Fatal(err)
		}
		servicetest.Decode[reservation](t, servicetest.Call(h, "POST", "/api/reservations", body(1, 1, 2)), 201)
		for _, tt := range []struct {
			body   string
			status int
			code   string
		}{
			{body(1, 1, 2), 409, "already_reserved"},
			{body(1, 2, 4), 409, "sold_out"},
			{body(21, 1, 1), 404, "not_found"},
		} {
			if got := servicetest.Decode[service.Refusal](t, servicetest.Call(h, "POST", "/api/reservations", tt.body), tt.status); got.Code != tt.code {
				t.Errorf("%s is answered with %+v, want %s", tt.body, got, tt.code)
			}
		}
		// Three seats are left for whoever takes exactly those.
		servicetest.Decode[reservation](t, servicetest.Call(h, "POST", "/api/reservations", body(1, 2, 3)), 201)
	})
}

func TestSeatsTogether(t *testing.T) {
	onEach(t, func(t *testing.T, h http.Handler, d *service.Database) {
		if _, err := d.ExecContext(t.Context(), "UPDATE events SET capacity = 12 WHERE id = 1"); err != nil {
			t.Fatal(err)
		}
		var created, refused atomic.Int32
		err := servicetest.Together(20, func(i int) error {
			switch w := servicetest.Call(h, "POST", "/api/reservations", body(1, i+1, 2)); w.Code {
			case 201:
				created.Add(1)
			case 409:
				refused.Add(1)
			default:
				return fmt.Errorf("status %d: %s", w.Code, w.Body)
			}
			return nil
		})
		if err != nil || created.Load() != 6 || refused.Load() != 14 {
			t.Errorf("%d created and %d refused, want 6 and 14; %v", created.Load(), refused.Load(), err)
		}
	})
}

func TestRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, h http.Handler, d *service.Database) {
		for sent, about := range map[string]string{
			"":                                 `empty; send {"event": 1`,
			`{"event": 1, "customer": 1}`:      "seats must be",
			`{"customer": 1, "seats": 1}`:      "event must be",
			`{"event": 1, "seats": 1}`:         "customer must be",
			body(1, 1, 11):                     "from 1 to 10",
			body(1, 1, -1):                     "from 1 to 10",
			`{"event": 1, "customer": 1.5}`:    "customer is a number 1.5, not a whole number",
			`{"event": "1"}`:                   "event is a string, not a whole number",
			`{"event": 9223372036854775808}`:   "not a whole number",
			`{"event": 1, "name": "somebody"}`: `unknown field "name"`,
			body(1, 1, 1) + body(1, 1, 1):      "follows",
		} {
			got := servicetest.Decode[service.Refusal](t, servicetest.Call(h, "POST", "/api/reservations", sent), 400)
			if got.Code != "invalid_request" || !strings.Contains(got.Message, about) {
				t.Errorf("%s is answered with %+v, want something about %q", sent, got, about)
			}
		}
		for path, status := range map[string]int{
			"/api/reservations?event=0": 400, "/api/reservations?limit=101": 400, "/api/events?offset=x": 400,
			"/api/reservations/0": 400, "/api/reservations/x": 400, "/api/reservations/1": 404,
		} {
			servicetest.Decode[service.Refusal](t, servicetest.Call(h, "GET", path, ""), status)
		}
		var n int
		if err := d.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM reservations) + (SELECT sum(reserved) FROM events)").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows and seats after refused requests, want none; %v", n, err)
		}
	})
}
