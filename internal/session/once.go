package session

import (
	"errors"
)

// ErrOutcomeUnknown matches the error of a statement or commit whose connection broke after the server may have got it,
// where at_most_once is set. It does not match driver.ErrBadConn: database/sql would send the statement again.
var ErrOutcomeUnknown = errors.New("lifeguard: the connection broke after the statement was sent, " +
	"and it is not known whether the server has run it (at_most_once)")

// outcomeUnknownError keeps the driver's text.
type outcomeUnknownError struct{ text string }

func (e *outcomeUnknownError) Error() string        { return ErrOutcomeUnknown.Error() + ": " + e.text }
func (e *outcomeUnknownError) Is(target error) bool { return target == ErrOutcomeUnknown }
