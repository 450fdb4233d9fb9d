package intercept

import (
	"context"
	"database/sql/driver"

	"github.com/ngrok/sqlmw"
)

// Session is what stands behind the interceptors.
type Session interface {
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.Pinger
	Spoil()         // has the connection closed when it comes back
	Unwrapped() any // is the wrapped driver's connection
}

// Conn is a connection as an interceptor is given it: behind it are the interceptors that follow and, last, the session.
// It makes no difference whether one is called once, again, or not at all.
type Conn struct {
	session Session
	by      sqlmw.Interceptor // nil in the last one
	next    *Conn             // what by is given
}

var (
	_ driver.Conn               = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
)

// New puts the interceptors before a session; nil if there are none.
func New(s Session, by []sqlmw.Interceptor) *Conn {
	if len(by) == 0 {
		return nil
	}
	c := &Conn{session: s}
	for i := range by {
		c = &Conn{session: s, by: by[len(by)-1-i], next: c}
	}
	return c
}

// orElse is the context that follows from a call: what the interceptor returned, or, if that is nothing, what it was
// given.
func orElse(returned, given context.Context) context.Context {
	if returned == nil {
		return given
	}
	return returned
}

// ExecContext runs a text.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.by == nil {
		return c.session.ExecContext(ctx, query, args)
	}
	parent, err := c.by.ConnExecContext(ctx, c.next, query, args)
	return interceptResult(c.by, parent, err)
}

// QueryContext runs a text.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.by == nil {
		return c.session.QueryContext(ctx, query, args)
	}
	after, parent, err := c.by.ConnQueryContext(ctx, c.next, query, args)
	return interceptRows(c.by, orElse(after, ctx), parent, err)
}

// PrepareContext prepares a statement. There is none without an error if an interceptor returned neither.
func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if c.by == nil {
		return c.session.PrepareContext(ctx, query)
	}
	after, parent, err := c.by.ConnPrepareContext(ctx, c.next, query)
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedStmt{by: c.by, ctx: orElse(after, ctx), query: query, parent: parent}, nil
}

// BeginTx begins a transaction.
func (c *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if c.by == nil {
		return c.session.BeginTx(ctx, opts)
	}
	after, parent, err := c.by.ConnBeginTx(ctx, c.next, opts)
	if err != nil || parent == nil {
		return nil, err
	}
	return &interceptedTx{by: c.by, ctx: orElse(after, ctx), parent: parent}, nil
}

// Ping asks the connection for an answer.
func (c *Conn) Ping(ctx context.Context) error {
	if c.by == nil {
		return c.session.Ping(ctx)
	}
	return c.by.ConnPing(ctx, c.next)
}

// Prepare is for an interceptor that has no context.
func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// Begin is for an interceptor that has no context.
func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// Close is for an interceptor that wants the connection gone. The pool closes it, when it comes back.
func (c *Conn) Close() error {
	c.session.Spoil()
	return nil
}

// Unwrapped is how lifeguard.Unwrap finds the wrapped driver's connection, for interceptors that need it.
func (c *Conn) Unwrapped() any { return c.session.Unwrapped() }

// Connector is a connector as an interceptor is given it.
type Connector struct {
	driver.Connector
	By []sqlmw.Interceptor // the first outermost
}

// Connect dials through the interceptors.
func (c Connector) Connect(ctx context.Context) (driver.Conn, error) {
	if len(c.By) == 0 {
		return c.Connector.Connect(ctx)
	}
	return c.By[0].ConnectorConnect(ctx, Connector{c.Connector, c.By[1:]})
}
