package service

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/go-lifeguard/lifeguard"
)

// Refusal is an error as the client sees it. Its text must not say more than
// everybody may know.
type Refusal struct {
	Status  int    `json:"-"`
	Code    string `json:"error"`   // for programs
	Message string `json:"message"` // for people
}

// Error is what the client is told.
func (r *Refusal) Error() string { return r.Message }

// BadRequest is the refusal of a request that cannot be meant.
func BadRequest(message string) *Refusal {
	return &Refusal{http.StatusBadRequest, "invalid_request", message}
}

// RefusalFor finds what to tell the client about err. What is not the client's
// doing and not known to pass is an internal error, of which the client learns
// no detail.
func RefusalFor(err error) *Refusal {
	var refused *Refusal
	var timeout *lifeguard.PoolTimeoutError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &timeout) && timeout.Err != nil, isUnreachable(err):
		// A pool that can open no connection times out as well, but it is not
		// full: whoever looks for the cause should not look for the holders.
		return &Refusal{http.StatusServiceUnavailable, "database_unreachable", "the database cannot be reached; please try again"}
	case errors.Is(err, lifeguard.ErrPoolTimeout):
		return &Refusal{http.StatusServiceUnavailable, "pool_timeout", "no database connection became free in time; please try again"}
	case errors.Is(err, lifeguard.ErrPoolClosed):
		return &Refusal{http.StatusServiceUnavailable, "pool_closed", "the service is shutting down; please try again"}
	case errors.Is(err, context.DeadlineExceeded):
		return &Refusal{http.StatusServiceUnavailable, "timeout", "the database did not answer in time; please try again"}
	}
	return &Refusal{http.StatusInternalServerError, "internal", "something went wrong here; it has been logged"}
}

// isUnreachable reports whether err means that the database server is away, or
// turns everybody away, rather than that it refused this one statement.
func isUnreachable(err error) bool {
	var network *net.OpError
	if errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) {
		return true
	}
	// SQLSTATE classes: 08 connection exception, 53 insufficient resources,
	// 57P operator intervention such as a server that shuts down or starts up.
	var state interface{ SQLState() string }
	if !errors.As(err, &state) {
		return false
	}
	code := state.SQLState()
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P")
}

// fail answers r with err, and logs what the client is not told. The text of a
// pool timeout names code and queries: it belongs in the log.
func (a API) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		a.Log.Debug("the client is gone", "method", r.Method, "path", r.URL.Path, "err", err)
		return
	}
	refused := RefusalFor(err)
	switch {
	case refused.Status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		a.Log.Warn("request turned away", "method", r.Method, "path", r.URL.Path, "error", refused.Code, "err", err)
	case refused.Status >= http.StatusInternalServerError:
		a.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	// A refusal is two strings: it always becomes JSON.
	_ = Respond(w, refused.Status, refused)
}
