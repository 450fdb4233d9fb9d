package main

import (
	"context"
	"database/sql"
	"errors"
	"net/http"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

// maxSeats is the most that one customer gets of one event.
const maxSeats = 10

type event struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Capacity int    `json:"capacity"`
	Reserved int    `json:"reserved"`
}

type reservation struct {
	ID       int64 `json:"id"`
	Event    int64 `json:"event"`
	Customer int64 `json:"customer"`
	Seats    int   `json:"seats"`
}

var (
	errNoSuchEvent       = &service.Refusal{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such event"}
	errNoSuchReservation = &service.Refusal{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such reservation"}
	errSoldOut           = &service.Refusal{Status: http.StatusConflict, Code: "sold_out", Message: "the event has fewer seats left"}
	errReserved          = &service.Refusal{Status: http.StatusConflict, Code: "already_reserved", Message: "the customer has a reservation for this event already"}
)

// reservations is two tables: events count their seats, and each reservation is
// a row. Their statements run unchanged on PostgreSQL and SQLite.
type reservations struct{ db *sql.DB }

// add takes the seats and stores the reservation, both or neither. It returns
// the reservation with its id, or errNoSuchEvent, errSoldOut or errReserved.
//
// The first statement locks the event's row until the end. So callers for one
// event come one after the other, each sees what the one before it left, and
// none can be in a deadlock: nobody locks a second event.
func (r reservations) add(ctx context.Context, added reservation) (reservation, error) {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return reservation{}, err
	}
	// After a commit this does nothing; before it, the error that is being
	// returned says more than a failure to undo.
	defer func() { _ = tx.Rollback() }()

	taken, err := tx.ExecContext(ctx,
		"UPDATE events SET reserved = reserved + $1 WHERE id = $2 AND reserved + $1 <= capacity", added.Seats, added.Event)
	if err != nil {
		return reservation{}, err
	}
	if n, err := taken.RowsAffected(); err != nil {
		return reservation{}, err
	} else if n == 0 {
		return reservation{}, whyNone(ctx, tx, added.Event)
	}
	err = tx.QueryRowContext(ctx,
		"INSERT INTO reservations (event, customer, seats) VALUES ($1, $2, $3) ON CONFLICT (event, customer) DO NOTHING RETURNING id",
		added.Event, added.Customer, added.Seats).Scan(&added.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return reservation{}, errReserved // the rollback gives the seats back
	}
	if err != nil {
		return reservation{}, err
	}
	return added, tx.Commit()
}

// whyNone says why no seats could be taken.
func whyNone(ctx context.Context, tx *sql.Tx, id int64) error {
	var exists bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM events WHERE id = $1)", id).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		return errNoSuchEvent
	}
	return errSoldOut
}

// find returns the reservation with this id, or errNoSuchReservation.
func (r reservations) find(ctx context.Context, id int64) (reservation, error) {
	found := reservation{ID: id}
	err := r.db.QueryRowContext(ctx,
		"SELECT event, customer, seats FROM reservations WHERE id = $1", id).Scan(&found.Event, &found.Customer, &found.Seats)
	if errors.Is(err, sql.ErrNoRows) {
		return reservation{}, errNoSuchReservation
	}
	return found, err
}

// list returns at most limit reservations after the first offset ones, in the
// order of their ids; of one event, or of all if that is 0.
func (r reservations) list(ctx context.Context, of int64, limit, offset int) ([]reservation, error) {
	query, arguments := "SELECT id, event, customer, seats FROM reservations ORDER BY id LIMIT $1 OFFSET $2", []any{limit, offset}
	if of != 0 {
		query, arguments = "SELECT id, event, customer, seats FROM reservations WHERE event = $3 ORDER BY id LIMIT $1 OFFSET $2", append(arguments, of)
	}
	rows, err := r.db.QueryContext(ctx, query, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]reservation, 0, limit) // not nil: an empty page is [] in JSON, not null
	for rows.Next() {
		var one reservation
		if err := rows.Scan(&one.ID, &one.Event, &one.Customer, &one.Seats); err != nil {
			return nil, err
		}
		page = append(page, one)
	}
	return page, rows.Err()
}

// events returns at most limit events after the first offset ones.
func (r reservations) events(ctx context.Context, limit, offset int) ([]event, error) {
	rows, err := r.db.QueryContext(ctx,
		"SELECT id, name, capacity, reserved FROM events ORDER BY id LIMIT $1 OFFSET $2", limit, offset)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]event, 0, limit)
	for rows.Next() {
		var one event
		if err := rows.Scan(&one.ID, &one.Name, &one.Capacity, &one.Reserved); err != nil {
			return nil, err
		}
		page = append(page, one)
	}
	return page, rows.Err()
}
