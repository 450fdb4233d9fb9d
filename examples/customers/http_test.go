package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
	"github.com/go-lifeguard/lifeguard/examples/internal/servicetest"
)

func handlerOf(t *testing.T, d *service.Database) http.Handler {
	return newHandler(d, logTo(t.Output()))
}

func TestListCustomers(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		if page := servicetest.Decode[[]customer](t, servicetest.Call(h, "GET", "/api/customers", ""), 200); len(page) != service.DefaultLimit {
			t.Errorf("%d customers, want %d", len(page), service.DefaultLimit)
		}
		var all []customer
		for offset := 0; ; offset += 7 {
			page := servicetest.Decode[[]customer](t, servicetest.Call(h, "GET", fmt.Sprintf("/api/customers?limit=7&offset=%d", offset), ""), 200)
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
		}
		if len(all) != 100 {
			t.Fatalf("%d customers on all pages, want 100", len(all))
		}
		for i, c := range all {
			if want := fmt.Sprintf("customer%d@example.com", i+1); c.Email != want || c.Name == "" {
				t.Errorf("place %d has %+v, want %s", i, c, want)
			}
		}
		if !slices.IsSortedFunc(all, func(a, b customer) int { return int(a.ID - b.ID) }) {
			t.Error("not in the order of their ids")
		}
		if body := servicetest.Call(h, "GET", "/api/customers?offset=1000000", "").Body.String(); body != "[]\n" {
			t.Errorf("a page beyond the end is %q, want []", body)
		}
	})
}

func TestListRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		for query, about := range map[string]string{
			"limit=0":                    "limit",
			"limit=101":                  "limit",
			"limit=":                     "limit",
			"limit=ten":                  "limit",
			"limit=1.5":                  "limit",
			"limit=5&limit=6":            "limit",
			"offset=-1":                  "offset",
			"offset=1000001":             "offset",
			"offset=9999999999999999999": "offset",
			"limit=%zz":                  "query string",
			"limit=1;offset=2":           "query string",
		} {
			got := servicetest.Decode[service.Refusal](t, servicetest.Call(h, "GET", "/api/customers?"+query, ""), 400)
			if got.Code != "invalid_request" || !strings.Contains(got.Message, about) {
				t.Errorf("%s is answered with %+v, want something about %s", query, got, about)
			}
		}
	})
}

func TestAddCustomer(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		w := servicetest.Call(h, "POST", "/api/customers", `{"name": "  Łódź & Søn ", "email": "New@Example.com"}`)
		added := servicetest.Decode[customer](t, w, 201)
		if added.Name != "Łódź & Søn" || added.Email != "new@example.com" || added.ID <= 100 {
			t.Errorf("added %+v", added)
		}
		location := w.Header().Get("Location")
		if want := fmt.Sprintf("/api/customers/%d", added.ID); location != want {
			t.Fatalf("Location %q, want %q", location, want)
		}
		if found := servicetest.Decode[customer](t, servicetest.Call(h, "GET", location, ""), 200); found != added {
			t.Errorf("found %+v, want %+v", found, added)
		}
		again := servicetest.Decode[service.Refusal](t, servicetest.Call(h, "POST", "/api/customers", `{"name": "Another", "email": "NEW@example.com"}`), 409)
		if again.Code != "email_taken" {
			t.Errorf("a duplicate is answered with %+v", again)
		}
	})
}

func TestSameEmailTogether(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		var created, taken atomic.Int32
		err := servicetest.Together(20, func(int) error {
			switch w := servicetest.Call(h, "POST", "/api/customers", `{"name": "New", "email": "new@example.com"}`); w.Code {
			case 201:
				created.Add(1)
			case 409:
				taken.Add(1)
			default:
				return fmt.Errorf("status %d: %s", w.Code, w.Body)
			}
			return nil
		})
		if err != nil || created.Load() != 1 || taken.Load() != 19 {
			t.Errorf("%d created and %d taken, want 1 and 19; %v", created.Load(), taken.Load(), err)
		}
	})
}

func TestAddRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		valid := `{"name": "New", "email": "new@example.com"}`
		for _, tt := range []struct {
			name, body string
			status     int
			about      string
		}{
			{"nothing", "", 400, "empty"},
			{"only space", " \n", 400, "empty"},
			{"no JSON", "name=New", 400, "not JSON"},
			{"broken off", `{"name": "New"`, 400, "in the middle"},
			{"list", `[]`, 400, "array"},
			{"null", `null`, 400, "name is missing"},
			{"second object", valid + valid, 400, "follows"},
			{"garbage behind", valid + " x", 400, "not JSON"},
			{"bracket behind", valid + "]", 400, "not JSON"},
			{"unknown field", `{"name": "New", "email": "new@example.com", "admin": true}`, 400, `unknown field "admin"`},
			{"own id", `{"id": 1, "name": "New", "email": "new@example.com"}`, 400, `unknown field "id"`},
			{"number as name", `{"name": 5, "email": "new@example.com"}`, 400, "name is a number"},
			{"no name", `{"email": "new@example.com"}`, 400, "name is missing"},
			{"blank name", `{"name": " \t", "email": "new@example.com"}`, 400, "name is missing"},
			{"NUL in name", `{"name": "a\u0000b", "email": "new@example.com"}`, 400, "name has"},
			{"line in name", `{"name": "a\nb", "email": "new@example.com"}`, 400, "name has"},
			{"broken UTF-8", "{\"name\": \"a\xffb\", \"email\": \"new@example.com\"}", 400, "name has"},
			{"long name", `{"name": "` + strings.Repeat("ł", 201) + `", "email": "new@example.com"}`, 400, "name is longer"},
			{"no email", `{"name": "New"}`, 400, "email is missing"},
			{"no at", `{"name": "New", "email": "new.example.com"}`, 400, "email is not"},
			{"two addresses", `{"name": "New", "email": "a@example.com, b@example.com"}`, 400, "email is not"},
			{"display name", `{"name": "New", "email": "New <new@example.com>"}`, 400, "email is not"},
			{"NUL in email", `{"name": "New", "email": "a\u0000@example.com"}`, 400, "email is not"},
			{"long email", `{"name": "New", "email": "` + strings.Repeat("a", 250) + `@b.de"}`, 400, "email is longer"},
			{"too large", `{"name": "` + strings.Repeat("a", service.MaxBody) + `"}`, 413, "larger than 8192 bytes"},
			{"too much behind", valid + strings.Repeat(" ", service.MaxBody), 413, "larger than 8192 bytes"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				got := servicetest.Decode[service.Refusal](t, servicetest.Call(h, "POST", "/api/customers", tt.body), tt.status)
				if !strings.Contains(got.Message, tt.about) {
					t.Errorf("answered with %+v, want something about %q", got, tt.about)
				}
			})
		}
		if n := count(t, d); n != 100 {
			t.Errorf("%d customers after refused requests, want 100", n)
		}
		// The longest of everything is still accepted.
		longest := fmt.Sprintf(`{"name": "%s", "email": "%s@b.de"}`,
			strings.Repeat(`\ud83d\udc1f`, maxName), strings.Repeat(`\u0061`, maxEmail-len("@b.de")))
		servicetest.Decode[customer](t, servicetest.Call(h, "POST", "/api/customers", longest), 201)
	})
}

func TestShowRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		for id, status := range map[string]int{
			"0": 400, "-1": 400, "one": 400, "9223372036854775808": 400,
			"9223372036854775807": 404, "101": 404,
		} {
			servicetest.Decode[service.Refusal](t, servicetest.Call(h, "GET", "/api/customers/"+id, ""), status)
		}
	})
}

func TestOtherMethodsAndPaths(t *testing.T) {
	h := newHandler(&service.Database{}, logTo(t.Output()))
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"DELETE", "/api/customers", 405},
		{"POST", "/healthz", 405},
		{"GET", "/nothing", 404},
		{"GET", "/api/customers/1/", 404},
	} {
		w := servicetest.Call(h, tt.method, tt.path, "")
		if w.Code != tt.status {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, w.Code, tt.status)
		}
		if w.Code == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s %s: no Allow header", tt.method, tt.path)
		}
	}
}

func TestHealth(t *testing.T) {
	onEach(t, func(t *testing.T, d *service.Database) {
		h := handlerOf(t, d)
		got := servicetest.Decode[service.HealthReport](t, servicetest.Call(h, "GET", "/healthz", ""), 200)
		if got.Status != "ok" || got.Database != d.Kind {
			t.Errorf("healthy, but %+v", got)
		}
		if got.Pool == nil || got.Pool.Limit != 10 || got.Pool.Open < 1 || got.Pool.Acquired < 1 || got.Pool.InUse != 0 {
			t.Errorf("pool %+v", got.Pool)
		}
	})
}
