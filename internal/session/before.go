package session

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// BeforeConnect is a connector that asks for the DSN of each connection.
type BeforeConnect struct {
	Parent driver.Driver
	DSN    func(ctx context.Context) (string, error) // the user's hook
	Open   func(dsn string) (driver.Connector, error)
	Redact func(dsn string, err error) error // withholds the secrets of an answer

	Patience time.Duration // of callers; 0: none
}

// Driver gives the wrapped driver.
func (c BeforeConnect) Driver() driver.Driver { return c.Parent }

// Connect opens a connection with the DSN of this moment. Where the server refuses the password, it may have changed
// since the hook gave it: a different second answer is tried, too. Both calls share the time of one.
func (c BeforeConnect) Connect(ctx context.Context) (driver.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, hookTime(c.Patience))
	defer cancel()
	answer, err := c.ask(bounded)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx, answer)
	if !libpq.PasswordRefused(err) {
		return conn, err
	}
	switch second, askErr := c.ask(bounded); {
	case askErr != nil:
		return nil, fmt.Errorf("%w; asked again: %w", err, askErr)
	case second == answer:
		return nil, err
	default:
		return c.dial(ctx, second)
	}
}

func (c BeforeConnect) dial(ctx context.Context, answer string) (driver.Conn, error) {
	connector, err := c.Open(answer)
	if err != nil {
		return nil, err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, c.Redact(answer, err)
	}
	return conn, nil
}

// ask runs the hook. One that hangs has nothing of the pool's.
func (c BeforeConnect) ask(ctx context.Context) (string, error) {
	var answer string
	err := callHook(ctx, "WithBeforeConnect", func() (err error) {
		answer, err = c.DSN(ctx)
		return err
	})
	if err != nil {
		return "", err // answer is the hook's, if that has not returned
	}
	return answer, nil
}
