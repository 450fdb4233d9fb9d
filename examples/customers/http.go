package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-lifeguard/lifeguard/poolpage"
)

const (
	// maxBody is the largest request body read, in bytes: a name of the
	// longest kind, every character of it escaped, fits.
	maxBody = 8 << 10

	// healthTimeout is how long /healthz waits for a connection and an answer.
	healthTimeout = time.Second
)

type service struct {
	database  *database
	customers customers
	log       *slog.Logger
}

func newHandler(d *database, log *slog.Logger) http.Handler {
	s := &service{database: d, customers: customers{d.DB}, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/customers", s.answer(s.listCustomers))
	mux.HandleFunc("POST /api/customers", s.answer(s.addCustomer))
	mux.HandleFunc("GET /api/customers/{id}", s.answer(s.showCustomer))
	mux.HandleFunc("GET /healthz", s.health)
	mux.Handle("/debug/pool/", poolpage.Handler(d.DB)) // a real service serves it on an internal port
	return mux
}

// answer turns a handler that may fail into one that answers failures, all in
// the same way, and bounds its time.
func (s *service) answer(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		if err := handle(w, r.WithContext(ctx)); err != nil {
			s.fail(w, r, err)
		}
	}
}

func (s *service) listCustomers(w http.ResponseWriter, r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest("the query string cannot be read: " + err.Error())
	}
	limit, err := wholeNumber(query, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	offset, err := wholeNumber(query, "offset", 0, 0, maxOffset)
	if err != nil {
		return err
	}
	page, err := s.customers.list(r.Context(), limit, offset)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, page)
}

func (s *service) showCustomer(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return badRequest("a customer's id is a whole number from 1")
	}
	found, err := s.customers.find(r.Context(), id)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, found)
}

func (s *service) addCustomer(w http.ResponseWriter, r *http.Request) error {
	wanted, err := readCustomer(w, r)
	if err != nil {
		return err
	}
	added, err := s.customers.add(r.Context(), wanted)
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/customers/%d", added.ID))
	return respond(w, http.StatusCreated, added)
}

// readCustomer reads the body of a POST strictly: what it does not understand
// it refuses, rather than to store half of what was meant.
func readCustomer(w http.ResponseWriter, r *http.Request) (customer, error) {
	var sent struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	}
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	err := body.Decode(&sent)
	if err == nil {
		if _, err = body.Token(); err == nil {
			err = errTrailing
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return customer{}, describeBody(err)
	}
	name, err := checkName(sent.Name)
	if err != nil {
		return customer{}, badRequest(err.Error())
	}
	email, err := checkEmail(sent.Email)
	if err != nil {
		return customer{}, badRequest(err.Error())
	}
	return customer{Name: name, Email: email}, nil
}

var errTrailing = errors.New("something follows the JSON object")

// describeBody says what is wrong with a body in the words of JSON, not of Go.
func describeBody(err error) error {
	var (
		tooLarge  *http.MaxBytesError
		wrongType *json.UnmarshalTypeError
		syntax    *json.SyntaxError
	)
	const want = `; send {"name": "…", "email": "…"}`
	switch {
	case errors.As(err, &tooLarge):
		return &refusal{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case errors.Is(err, errTrailing):
		return badRequest(err.Error() + want)
	case errors.Is(err, io.EOF):
		return badRequest("the body is empty" + want)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return badRequest(fmt.Sprintf("%s is a %s, not a string", wrongType.Field, wrongType.Value))
	case errors.As(err, &wrongType):
		return badRequest("the body is a JSON " + wrongType.Value + ", not an object" + want)
	case errors.As(err, &syntax):
		return badRequest(fmt.Sprintf("the body is not JSON: %v, at byte %d", err, syntax.Offset))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("the body ends in the middle of its JSON" + want)
	default:
		// An unknown field, for which encoding/json has no type, or a body
		// that broke off on its way.
		return badRequest(strings.TrimPrefix(err.Error(), "json: "))
	}
}

// wholeNumber reads one parameter of a query string.
func wholeNumber(query url.Values, name string, missing, least, most int) (int, error) {
	if !query.Has(name) {
		return missing, nil
	}
	n, err := strconv.Atoi(query.Get(name))
	if err != nil || n < least || n > most || len(query[name]) > 1 {
		return 0, badRequest(fmt.Sprintf("%s must be one whole number from %d to %d", name, least, most))
	}
	return n, nil
}

// respond writes value as JSON. It fails only before anything is written.
func respond(w http.ResponseWriter, status int, value any) error {
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
