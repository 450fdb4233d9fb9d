package session

import (
	"context"
	"fmt"
)

// Admit decides whether a new connection may be used, before its hook and anybody gets it. ask runs a query on it and gives
// its only value.
type Admit func(ctx context.Context, ask func(query string) (string, error)) error

// run runs the decision as part of the dial: the end of the dial's context ends it.
func (admit Admit) run(ctx context.Context, s *Session) error {
	stop := context.AfterFunc(ctx, func() { s.Cut() })
	err := contain(theDriver, "admitted a connection", func() error {
		return admit(ctx, func(query string) (string, error) {
			value, err := s.ask(ctx, query)
			return fmt.Sprint(value), err
		})
	})
	if !stop() {
		return ctx.Err()
	}
	return err
}
