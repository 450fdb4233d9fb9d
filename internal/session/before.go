package session

import (
	"context"
	"database/sql/driver"
	"fmt"
	"time"
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

// Connect opens a connection with the DSN of this moment. A hook that does not return in time is left alone: it has
// nothing of the pool's.
func (c BeforeConnect) Connect(ctx context.Context) (driver.Conn, error) {
	type answer struct {
		dsn string
		err error
	}
	limit := hookTime(c.Patience)
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answered := make(chan answer, 1)
	go func() { // ends with the hook
		var a answer
		a.err = contain("ran the hook of WithBeforeConnect", func() (err error) {
			a.dsn, err = c.DSN(bounded)
			return err
		})
		answered <- a
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return nil, fmt.Errorf("lifeguard: the hook of WithBeforeConnect failed: %w", a.err)
		}
		connector, err := c.Open(a.dsn)
		if err != nil {
			return nil, err
		}
		conn, err := connector.Connect(ctx)
		if err != nil {
			return nil, c.Redact(a.dsn, err)
		}
		return conn, nil
	case <-bounded.Done():
		return nil, hangs("WithBeforeConnect", limit, ctx)
	}
}
