package main

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-lifeguard/lifeguard/examples/internal/service"
)

// Bounds of what is stored.
const (
	maxName  = 200 // characters
	maxEmail = 254 // bytes, as SMTP has it
)

type customer struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

var (
	errNoSuchCustomer = &service.Refusal{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such customer"}
	errEmailTaken     = &service.Refusal{Status: http.StatusConflict, Code: "email_taken", Message: "a customer with this email exists already"}
)

// customers is the table. Its statements run unchanged on PostgreSQL and SQLite.
type customers struct{ db *sql.DB }

// list returns at most limit customers after the first offset ones, in the
// order in which they were added.
func (c customers) list(ctx context.Context, limit, offset int) ([]customer, error) {
	rows, err := c.db.QueryContext(ctx,
		"SELECT id, name, email FROM customers ORDER BY id LIMIT $1 OFFSET $2", limit, offset)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := make([]customer, 0, limit) // not nil: an empty page is [] in JSON, not null
	for rows.Next() {
		var one customer
		if err := rows.Scan(&one.ID, &one.Name, &one.Email); err != nil {
			return nil, err
		}
		page = append(page, one)
	}
	return page, rows.Err()
}

// find returns the customer with this id, or errNoSuchCustomer.
func (c customers) find(ctx context.Context, id int64) (customer, error) {
	found := customer{ID: id}
	err := c.db.QueryRowContext(ctx,
		"SELECT name, email FROM customers WHERE id = $1", id).Scan(&found.Name, &found.Email)
	if errors.Is(err, sql.ErrNoRows) {
		return customer{}, errNoSuchCustomer
	}
	return found, err
}

// add stores a customer and returns it with its id, or errEmailTaken. Leaving
// the conflict to the database is free of the race that a look beforehand has,
// and needs no driver's error codes.
func (c customers) add(ctx context.Context, added customer) (customer, error) {
	err := c.db.QueryRowContext(ctx,
		"INSERT INTO customers (name, email) VALUES ($1, $2) ON CONFLICT (email) DO NOTHING RETURNING id",
		added.Name, added.Email).Scan(&added.ID)
	if errors.Is(err, sql.ErrNoRows) {
		return customer{}, errEmailTaken
	}
	return added, err
}

// checkName returns name as it is stored. The error is meant for whoever sent it.
func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", errors.New("name is missing")
	case utf8.RuneCountInString(name) > maxName:
		return "", errors.New("name is longer than 200 characters")
	case strings.ContainsFunc(name, isUnprintable):
		return "", errors.New("name has characters that cannot be printed")
	}
	return name, nil
}

// checkEmail returns email as it is stored: in lower case, since an address is
// the same person's however it is spelt. The error is meant for whoever sent it.
func checkEmail(email string) (string, error) {
	email = strings.TrimSpace(email)
	if email == "" {
		return "", errors.New("email is missing")
	}
	if len(email) > maxEmail {
		return "", errors.New("email is longer than 254 bytes")
	}
	parsed, err := mail.ParseAddress(email)
	if err != nil || parsed.Address != email || strings.ContainsFunc(email, isUnprintable) {
		return "", errors.New("email is not an address such as name@example.com")
	}
	return strings.ToLower(email), nil
}

// isUnprintable spots what has no place in a line of text. NUL is among it,
// which PostgreSQL refuses, and so is what encoding/json puts in the place of
// broken UTF-8.
func isUnprintable(r rune) bool {
	return unicode.IsControl(r) || r == utf8.RuneError
}
