package session

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ngrok/sqlmw"

	"github.com/go-lifeguard/lifeguard/internal/intercept"
	"github.com/go-lifeguard/lifeguard/internal/libpq"
	"github.com/go-lifeguard/lifeguard/internal/stmtcache"
)

// Config is what all sessions of a pool have in common.
type Config struct {
	Parent        driver.Connector    // of the wrapped driver
	Interceptors  []sqlmw.Interceptor // the first outermost
	AtMostOnce    bool                // a statement is not sent twice
	SocketTimeout time.Duration       // bounds an operation; 0 for none
	Statements    *stmtcache.Shared
	AfterConnect  AfterConnect  // nil for none
	Admit         Admit         // nil for none
	Patience      time.Duration // of callers; 0: none
	DSN           string        // for what the driver does not show
	Target        string        // names the server in errors
	Name          string        // of the pool, for the log
	Log           *slog.Logger

	standby    bool // the DSN asks for a server that is read-only
	strangePgx *sync.Once
}

// Opener opens sessions. It is safe for concurrent use.
type Opener struct {
	cfg   Config
	inner *sql.DB
}

// NewOpener makes an opener of at most limit sessions at once.
func NewOpener(cfg Config, limit int) *Opener {
	o := &Opener{cfg: cfg}
	o.cfg.standby, o.cfg.strangePgx = libpq.WantsStandby(cfg.DSN), new(sync.Once)
	o.inner = sql.OpenDB(connector{o})
	o.inner.SetMaxIdleConns(-1) // it keeps nothing: each Conn is a dial, each close a close
	o.inner.SetMaxOpenConns(limit)
	return o
}

// Resize changes the limit.
func (o *Opener) Resize(limit int) { o.inner.SetMaxOpenConns(limit) }

// Close closes the connector. Sessions that are open stay so until CloseSession.
func (o *Opener) Close() error { return o.inner.Close() }

// Open dials. At the limit it waits until a session is closed or ctx ends. As on the plain driver, database/sql dials up
// to three times if the driver answers driver.ErrBadConn, which is then the error.
func (o *Opener) Open(ctx context.Context) (*Session, error) {
	held, err := o.inner.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var s *Session
	if err := held.Raw(func(dc any) error { s = dc.(*Session); return nil }); err != nil {
		return nil, fmt.Errorf("lifeguard: a connection was closed before its first use: %w", err)
	}
	s.held = held
	return s, nil
}

// CloseSession closes a session, and returns when its place in the limit is free, with the error of the driver's Close.
// ErrBadConn has the inner *sql.DB close the connection itself: by Close of the *sql.Conn it would hand it to a request
// that waits.
func (o *Opener) CloseSession(s *Session) error {
	s.cancel.Abandon()
	_ = s.held.Raw(func(any) error { return driver.ErrBadConn })
	return s.closeErr
}

// connector is that of the inner *sql.DB.
type connector struct{ opener *Opener }

var (
	_ driver.Connector = connector{}
	_ io.Closer        = connector{}
)

func (c connector) Driver() driver.Driver { return c.opener.cfg.Parent.Driver() }

// Close is called once, by the inner *sql.DB.
func (c connector) Close() error {
	if closer, ok := c.opener.cfg.Parent.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// Connect opens a physical connection. No panic and no end of a goroutine may pass through the inner *sql.DB: it would
// count the connection as open for ever.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	cfg := &c.opener.cfg
	ctx, dial := libpq.WithDial(ctx)
	var conn driver.Conn
	err := contain(theDriver, "opened a connection", func() (err error) {
		conn, err = intercept.Connector{Connector: cfg.Parent, By: cfg.Interceptors}.Connect(ctx)
		return err
	})
	if err == nil && conn == nil {
		who := theDriver
		if len(cfg.Interceptors) > 0 {
			who = "an interceptor or the driver"
		}
		err = fmt.Errorf("lifeguard: %s returned neither a connection nor an error", who)
	}
	socket, inTime := dial.Settled()
	if err == nil && !inTime {
		_ = conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		dial.HangUp()
		return nil, libpq.SentNothing(err)
	}
	s := newSession(cfg, conn, socket)
	if cfg.Admit != nil {
		if err := cfg.Admit.run(ctx, s); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	if cfg.AfterConnect != nil {
		if err := cfg.AfterConnect.run(ctx, s, cfg.Patience); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}

const theDriver = "the driver" // as who panicked

// PanicError stands for a panic of the wrapped driver or a hook on a goroutine of the pool.
type PanicError struct {
	Who    string
	During string // what it did, after "while it"; may be empty
	Value  any    // nil if it called runtime.Goexit
	Stack  []byte
}

func (e *PanicError) Error() string {
	did := " panicked"
	if e.Value == nil {
		did = " called runtime.Goexit"
	}
	if e.During != "" {
		did += " while it " + e.During
	}
	if e.Value != nil {
		did += fmt.Sprintf(": %v", e.Value)
	}
	return "lifeguard: " + e.Who + did
}

// contain calls a function of who's on a goroutine of its own, and returns when that has ended, however it did.
// Goexit cannot be recovered: only the end of another goroutine can be survived.
func contain(who, during string, call func() error) error {
	var err error = &PanicError{Who: who, During: during}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Who: who, During: during, Value: v, Stack: debug.Stack()}
			}
		}()
		err = call()
	}()
	<-ended
	return err
}
