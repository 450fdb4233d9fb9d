package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

// endpoints answers requests about reservations.
type endpoints struct{ reservations reservations }

func newHandler(d *service.Database, log *slog.Logger) http.Handler {
	api := service.API{Database: d, Log: log}
	e := endpoints{reservations{d.DB}}
	mux := api.Mux("reservations", "/api/events", "/api/reservations")
	mux.HandleFunc("GET /api/events", api.Answer(service.List(e.events)))
	mux.HandleFunc("GET /api/reservations", api.Answer(service.List(e.list)))
	mux.HandleFunc("POST /api/reservations", api.Answer(e.add))
	mux.HandleFunc("GET /api/reservations/{id}", api.Answer(e.show))
	return mux
}

func (e endpoints) events(ctx context.Context, _ url.Values, limit, offset int) ([]event, error) {
	return e.reservations.events(ctx, limit, offset)
}

// list may be that of one event.
func (e endpoints) list(ctx context.Context, query url.Values, limit, offset int) ([]reservation, error) {
	of, err := service.WholeNumber(query, "event", 0, 1, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	return e.reservations.list(ctx, int64(of), limit, offset)
}

func (e endpoints) show(w http.ResponseWriter, r *http.Request) error {
	id, err := service.ID(r, "reservation")
	if err != nil {
		return err
	}
	found, err := e.reservations.find(r.Context(), id)
	if err != nil {
		return err
	}
	return service.Respond(w, http.StatusOK, found)
}

func (e endpoints) add(w http.ResponseWriter, r *http.Request) error {
	var sent struct {
		Event    int64 `json:"event"`
		Customer int64 `json:"customer"`
		Seats    int   `json:"seats"`
	}
	if err := service.ReadJSON(w, r, &sent, `{"event": 1, "customer": 7, "seats": 2}`); err != nil {
		return err
	}
	switch {
	case sent.Event < 1:
		return service.BadRequest("event must be an event's id, a whole number from 1")
	case sent.Customer < 1:
		return service.BadRequest("customer must be a customer's id, a whole number from 1")
	case sent.Seats < 1 || sent.Seats > maxSeats:
		return service.BadRequest(fmt.Sprintf("seats must be a whole number from 1 to %d", maxSeats))
	}
	added, err := e.reservations.add(r.Context(), reservation{Event: sent.Event, Customer: sent.Customer, Seats: sent.Seats})
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/reservations/%d", added.ID))
	return service.Respond(w, http.StatusCreated, added)
}
