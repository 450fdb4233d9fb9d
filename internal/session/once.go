package session

import (
	"database/sql/driver"
	"errors"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// ErrOutcomeUnknown matches the error of a statement or commit whose connection broke after the server may have got it,
// where at_most_once is set. It does not match driver.ErrBadConn: database/sql would send the statement again.
var ErrOutcomeUnknown = errors.New("lifeguard: the connection broke after the statement was sent, " +
	"and it is not known whether the server has run it (at_most_once)")

// outcomeUnknownError keeps the driver's text.
type outcomeUnknownError struct{ text string }

func (e *outcomeUnknownError) Error() string        { return ErrOutcomeUnknown.Error() + ": " + e.text }
func (e *outcomeUnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }

// writes is how often something was sent, for once; -1 if nobody counts.
func (s *Session) writes() int64 {
	if !s.cfg.AtMostOnce {
		return 0
	}
	if n, ok := libpq.Sent(s.socket); ok {
		return n
	}
	return -1
}

// once is the error of an operation that must not be sent twice. before is what writes said before it. Where the writes
// are not counted, every ErrBadConn counts as sent.
func (s *Session) once(before int64, err error) error {
	if !s.cfg.AtMostOnce || !errors.Is(err, driver.ErrBadConn) {
		return err
	}
	if now := s.writes(); before >= 0 && now == before {
		return err
	}
	s.spoiled = true
	return &outcomeUnknownError{text: err.Error()}
}

// Ended says whether the server has closed the connection while nothing ran, as far as its socket shows.
func (s *Session) Ended() bool { return s.socket != nil && libpq.Ended(s.socket) }

// AtMostOnce says whether a statement must not be sent twice.
func (s *Session) AtMostOnce() bool { return s.cfg.AtMostOnce }
