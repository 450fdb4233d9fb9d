package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

// endpoints answers requests about customers.
type endpoints struct{ customers customers }

func newHandler(d *service.Database, log *slog.Logger) http.Handler {
	api := service.API{Database: d, Log: log}
	e := endpoints{customers{d.DB}}
	mux := api.Mux("customers", "/api/customers?limit=3")
	mux.HandleFunc("GET /api/customers", api.Answer(service.List(e.list)))
	mux.HandleFunc("POST /api/customers", api.Answer(e.add))
	mux.HandleFunc("GET /api/customers/{id}", api.Answer(e.show))
	return mux
}

func (e endpoints) list(ctx context.Context, _ url.Values, limit, offset int) ([]customer, error) {
	return e.customers.list(ctx, limit, offset)
}

func (e endpoints) show(w http.ResponseWriter, r *http.Request) error {
	id, err := service.ID(r, "customer")
	if err != nil {
		return err
	}
	found, err := e.customers.find(r.Context(), id)
	if err != nil {
		return err
	}
	return service.Respond(w, http.StatusOK, found)
}

func (e endpoints) add(w http.ResponseWriter, r *http.Request) error {
	var sent struct {
		Name  string `json:"name"`
		Email string `json:"email"`
	}
	if err := service.ReadJSON(w, r, &sent, `{"name": "…", "email": "…"}`); err != nil {
		return err
	}
	name, err := checkName(sent.Name)
	if err != nil {
		return service.BadRequest(err.Error())
	}
	email, err := checkEmail(sent.Email)
	if err != nil {
		return service.BadRequest(err.Error())
	}
	added, err := e.customers.add(r.Context(), customer{Name: name, Email: email})
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/customers/%d", added.ID))
	return service.Respond(w, http.StatusCreated, added)
}
