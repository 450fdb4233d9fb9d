package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/poolpage"
)

const (
	// MaxBody is the largest request body read, in bytes.
	MaxBody = 8 << 10

	// healthTimeout is how long /healthz waits for a connection and an answer.
	healthTimeout = time.Second
)

// API is what the endpoints of a service have in common.
type API struct {
	Database *Database
	Log      *slog.Logger
}

// Mux has the endpoints that every service has. Those of the service go beside
// them. name and links are for the landing page.
func (a API) Mux(name string, links ...string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.Health)
	mux.Handle("/debug/pool/", poolpage.Handler(a.Database.DB)) // a real service serves it on an internal port
	demo{a, name, links}.mount(mux)
	return mux
}

// Answer turns a handler that may fail into one that answers failures, all in
// the same way, and bounds its time.
func (a API) Answer(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		if err := handle(w, r.WithContext(ctx)); err != nil {
			a.fail(w, r, err)
		}
	}
}

// ReadJSON reads the body of a POST into the struct that into points to. It is
// strict: what it does not understand it refuses, rather than to store half of
// what was meant. example is the body as it should be, for the refusal.
func ReadJSON(w http.ResponseWriter, r *http.Request, into any, example string) error {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxBody))
	body.DisallowUnknownFields()
	err := body.Decode(into)
	if err == nil {
		if _, err = body.Token(); err == nil {
			err = errTrailing
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return describeBody(err, "; send "+example)
	}
	return nil
}

var errTrailing = errors.New("something follows the JSON object")

// describeBody says what is wrong with a body in the words of JSON, not of Go.
func describeBody(err error, want string) error {
	var (
		tooLarge  *http.MaxBytesError
		wrongType *json.UnmarshalTypeError
		syntax    *json.SyntaxError
	)
	switch {
	case errors.As(err, &tooLarge):
		return &Refusal{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case errors.Is(err, errTrailing):
		return BadRequest(err.Error() + want)
	case errors.Is(err, io.EOF):
		return BadRequest("the body is empty" + want)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		wanted := "whole number"
		if wrongType.Type.Kind() == reflect.String {
			wanted = "string"
		}
		return BadRequest(fmt.Sprintf("%s is a %s, not a %s", wrongType.Field, wrongType.Value, wanted))
	case errors.As(err, &wrongType):
		return BadRequest("the body is a JSON " + wrongType.Value + ", not an object" + want)
	case errors.As(err, &syntax):
		return BadRequest(fmt.Sprintf("the body is not JSON: %v, at byte %d", err, syntax.Offset))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return BadRequest("the body ends in the middle of its JSON" + want)
	default:
		// An unknown field, for which encoding/json has no type, or a body
		// that broke off on its way.
		return BadRequest(strings.TrimPrefix(err.Error(), "json: "))
	}
}

// Bounds of a page of a list. An offset makes the database walk over every row
// it skips, hence its bound.
const (
	DefaultLimit = 50
	maxLimit     = 100
	maxOffset    = 1_000_000
)

// List is a handler that answers with the part of a list that the request asks
// for. read reads it; query is for parameters of its own.
func List[T any](read func(ctx context.Context, query url.Values, limit, offset int) ([]T, error)) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		query, err := Query(r)
		if err != nil {
			return err
		}
		limit, offset, err := page(query)
		if err != nil {
			return err
		}
		part, err := read(r.Context(), query, limit, offset)
		if err != nil {
			return err
		}
		return Respond(w, http.StatusOK, part)
	}
}

// page reads which part of a list a request asks for.
func page(query url.Values) (limit, offset int, err error) {
	if limit, err = WholeNumber(query, "limit", DefaultLimit, 1, maxLimit); err != nil {
		return 0, 0, err
	}
	offset, err = WholeNumber(query, "offset", 0, 0, maxOffset)
	return limit, offset, err
}

// Query reads the query string of a request.
func Query(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, BadRequest("the query string cannot be read: " + err.Error())
	}
	return query, nil
}

// WholeNumber reads one parameter of a query string.
func WholeNumber(query url.Values, name string, missing, least, most int) (int, error) {
	if !query.Has(name) {
		return missing, nil
	}
	n, err := strconv.Atoi(query.Get(name))
	if err != nil || n < least || n > most || len(query[name]) > 1 {
		return 0, BadRequest(fmt.Sprintf("%s must be one whole number from %d to %d", name, least, most))
	}
	return n, nil
}

// ID reads the id in a path; whose says what it belongs to.
func ID(r *http.Request, whose string) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return 0, BadRequest("a " + whose + "'s id is a whole number from 1")
	}
	return id, nil
}

// Respond writes value as JSON. It fails only before anything is written.
func Respond(w http.ResponseWriter, status int, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Whoever does not take the answer any more cannot be told so.
	_, _ = w.Write(append(body, '\n'))
	return nil
}
