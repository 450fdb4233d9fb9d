//go:build unix

package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// Both services on one PostgreSQL, under load at once, stay within their limits
// and lose no reservation: the rows are exactly those that were acknowledged.
func TestTwoServicesOneServer(t *testing.T) {
	const (
		callers, requests        = 40, 50 // of each caller
		customersLimit, ownLimit = 6, 4
		seats, capacity, events  = 2, 500, 20
	)
	dsn := pgtest.DSN(t)
	run := func(path, name string, limit int) (*servicetest.Process, func() (int, int)) {
		p := servicetest.Start(t, path, servicetest.With(dsn, "connection_limit", fmt.Sprint(limit), "application_name", name), t.TempDir())
		return p, servicetest.Backends(t, servicetest.Plain(t, dsn), name)
	}
	customersPath, ownPath := servicetest.Build(t, "../customers"), servicetest.Build(t, ".")
	customers, customersSeen := run(customersPath, "customers", customersLimit)
	own, ownSeen := run(ownPath, "reservations", ownLimit)

	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}, Timeout: time.Minute}
	defer c.CloseIdleConnections()
	var mu sync.Mutex
	acknowledged, refused := map[reservation]bool{}, map[string]int{}
	began := time.Now()
	err := servicetest.Together(callers, func(caller int) error {
		for i := range requests {
			// Every second one wants event 1, for which there are too few seats.
			// Every tenth one asks for what this caller has asked for before.
			wanted := reservation{Event: 1, Customer: int64(caller*requests + i + 1), Seats: seats}
			if i%2 == 1 {
				wanted.Event = int64(2 + (caller+i)%(events-1))
			}
			if i%10 == 9 {
				wanted.Event, wanted.Customer = int64(2+(caller+i-2)%(events-1)), wanted.Customer-2
			}
			added, code, err := reserve(c, own.Base, wanted)
			if err != nil {
				return err
			}
			mu.Lock()
			if code == "" {
				acknowledged[added] = true
			} else {
				refused[code]++
			}
			mu.Unlock()
			if status, _, err := servicetest.Fetch(c, "GET", customers.Base+"/api/customers", ""); err != nil || status != 200 {
				return fmt.Errorf("customers: status %d, %v", status, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	for _, s := range []struct {
		process *servicetest.Process
		seen    func() (int, int)
		limit   int
	}{{customers, customersSeen, customersLimit}, {own, ownSeen, ownLimit}} {
		most, samples := s.seen()
		if most < 1 || most > s.limit {
			t.Errorf("%d backends at the most, want 1 to %d", most, s.limit)
		}
		pool := poolOf(t, c, s.process.Base)
		if pool.Limit != s.limit || pool.Opened > uint64(s.limit) || pool.Waits == 0 || pool.Timeouts > 0 {
			t.Errorf("pool %+v: want at most %d opened, callers that waited, and none in vain", pool, s.limit)
		}
		t.Logf("limit %d: at most %d backends in %d samples, %d waits", s.limit, most, samples, pool.Waits)
		s.process.Signal(t, syscall.SIGTERM)
		if code := s.process.AwaitExit(t, time.Minute); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		if strings.Contains(s.process.Log.String()+s.process.Out.String(), "secret") {
			t.Error("the log shows the password")
		}
	}

	db := servicetest.Plain(t, dsn)
	if got := stored(t, db); !maps.Equal(got, acknowledged) {
		t.Errorf("%d reservations acknowledged, %d stored, or not the same ones", len(acknowledged), len(got))
	}
	var wrong, first int
	if err := db.QueryRow(`SELECT count(*) FILTER (WHERE reserved > capacity OR reserved <>
			(SELECT coalesce(sum(seats), 0) FROM reservations WHERE event = events.id)),
		max(reserved) FILTER (WHERE id = 1) FROM events`).Scan(&wrong, &first); err != nil || wrong != 0 || first != capacity {
		t.Errorf("%d events count other seats than were reserved, event 1 has %d, want 0 and %d; %v", wrong, first, capacity, err)
	}
	if refused["sold_out"] == 0 || refused["already_reserved"] != callers*requests/10 {
		t.Errorf("refused: %v; want some that came too late, and %d that came again", refused, callers*requests/10)
	}
	t.Logf("%d acknowledged and stored, refused %v, in %v", len(acknowledged), refused, took)
}

// reserve sends one POST. code is that of the conflict, or "".
func reserve(c *http.Client, base string, wanted reservation) (added reservation, code string, err error) {
	response, err := c.Post(base+"/api/reservations", "application/json",
		strings.NewReader(body(int(wanted.Event), int(wanted.Customer), wanted.Seats)))
	if err != nil {
		return reservation{}, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return reservation{}, "", err
	}
	switch response.StatusCode {
	case http.StatusCreated:
		err = json.Unmarshal(answer, &added)
	case http.StatusConflict:
		var refusal service.Refusal
		err = json.Unmarshal(answer, &refusal)
		code = refusal.Code
	default:
		err = fmt.Errorf("reservations: %s: %s", response.Status, answer)
	}
	return added, code, err
}

func poolOf(t *testing.T, c *http.Client, base string) service.PoolReport {
	t.Helper()
	response, err := c.Get(base + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var report service.HealthReport
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil || report.Pool == nil {
		t.Fatalf("no pool in %+v, %v", report, err)
	}
	return *report.Pool
}

// stored reads all reservations.
func stored(t *testing.T, db *sql.DB) map[reservation]bool {
	t.Helper()
	rows, err := db.Query("SELECT id, event, customer, seats FROM reservations")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[reservation]bool{}
	for rows.Next() {
		var one reservation
		if err := rows.Scan(&one.ID, &one.Event, &one.Customer, &one.Seats); err != nil {
			t.Fatal(err)
		}
		found[one] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
