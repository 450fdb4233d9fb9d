package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/go-lifeguard/lifeguard"
)

// refusal is an error as the client sees it. Its text must not say more than
// everybody may know.
type refusal struct {
	status  int
	Code    string `json:"error"`   // for programs
	Message string `json:"message"` // for people
}

func (r *refusal) Error() string { return r.Message }

func badRequest(message string) *refusal {
	return &refusal{http.StatusBadRequest, "invalid_request", message}
}

// refusalFor finds what to tell the client about err. What is not the client's
// doing and not known to pass is an internal error, of which the client learns
// no detail.
func refusalFor(err error) *refusal {
	var refused *refusal
	var timeout *lifeguard.PoolTimeoutError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, errNoSuchCustomer):
		return &refusal{http.StatusNotFound, "not_found", "there is no such customer"}
	case errors.Is(err, errEmailTaken):
		return &refusal{http.StatusConflict, "email_taken", "a customer with this email exists already"}
	case errors.As(err, &timeout) && timeout.Err != nil, isUnreachable(err):
		// A pool that can open no connection times out as well, but it is not
		// full: whoever looks for the cause should not look for the holders.
		return &refusal{http.StatusServiceUnavailable, "database_unreachable", "the database cannot be reached; please try again"}
	case errors.Is(err, lifeguard.ErrPoolTimeout):
		return &refusal{http.StatusServiceUnavailable, "pool_timeout", "no database connection became free in time; please try again"}
	case errors.Is(err, lifeguard.ErrPoolClosed):
		return &refusal{http.StatusServiceUnavailable, "pool_closed", "the service is shutting down; please try again"}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{http.StatusServiceUnavailable, "timeout", "the database did not answer in time; please try again"}
	}
	return &refusal{http.StatusInternalServerError, "internal", "something went wrong here; it has been logged"}
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
func (s *service) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		s.log.Debug("the client is gone", "method", r.Method, "path", r.URL.Path, "err", err)
		return
	}
	refused := refusalFor(err)
	switch {
	case refused.status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		s.log.Warn("request turned away", "method", r.Method, "path", r.URL.Path, "error", refused.Code, "err", err)
	case refused.status >= http.StatusInternalServerError:
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	// A refusal is two strings: it always becomes JSON.
	_ = respond(w, refused.status, refused)
}
