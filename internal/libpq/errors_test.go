package libpq

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

type stateError string

func (e stateError) Error() string    { return "state " + string(e) }
func (e stateError) SQLState() string { return string(e) }

type numberError int

func (e numberError) Error() string { return "number" }
func (e numberError) Code() int     { return int(e) }

func TestCodeAndStatus(t *testing.T) {
	conn, _ := mustDial(t, pgtest.DSN(t))
	_, real := run(t.Context(), conn, "SELECT 1/0")
	for _, c := range []struct {
		err          error
		code, status string
	}{
		{nil, "", ""},
		{errors.New("none"), "", ""},
		{real, "22012", "22012"},
		{fmt.Errorf("query: %w", real), "22012", "22012"},
		{errors.Join(errors.New("none"), real), "22012", "22012"},
		{fmt.Errorf("%w and %w", errors.New("none"), fmt.Errorf("query: %w", real)), "22012", "22012"},
		{stateError("40001"), "40001", "40001"},
		{&MySQLError{1146}, "1146", "1146"},
		{fmt.Errorf("query: %w", &MySQLError{1146}), "1146", "1146"},
		{numberError(2067), "", "2067"},
		{fmt.Errorf("query: %w", numberError(5)), "", "5"},
		{driver.ErrBadConn, "", ""},
	} {
		assert.Equal(t, c.code, Code(c.err), "%v", c.err)
		assert.Equal(t, c.status, Status(c.err), "%v", c.err)
	}
}

// closedSocket asks for the password and does not take it.
type closedSocket struct {
	specimenSocket
	err error
}

func (s *closedSocket) Write(p []byte) (int, error) {
	if n, err := s.specimenSocket.Write(p); err == nil {
		return n, nil
	}
	return 0, s.err
}

type oneSocket struct {
	specimenDialer
	socket net.Conn
}

func (d *oneSocket) DialContext(context.Context, string, string) (net.Conn, error) {
	return d.socket, nil
}

// lib/pq hides errors met before anything was sent in a mark that does not unwrap.
func TestSentNothing(t *testing.T) {
	for _, c := range []struct {
		err error
		yes bool
	}{{syscall.ECONNRESET, true}, {syscall.EACCES, false}} {
		connector, err := pq.NewConnector("host=localhost user=u password=p sslmode=disable")
		require.NoError(t, err)
		connector.Dialer(&oneSocket{socket: &closedSocket{
			specimenSocket{says: strings.NewReader(passwordAsked), takes: 1}, c.err}})
		_, err = connector.Connect(t.Context())
		require.Error(t, err)
		assert.False(t, errors.Is(err, c.err), "a mark that unwraps need not be known")
		assert.Equal(t, c.err, SentNothing(err))
		assert.Equal(t, c.yes, Retryable(err))
		assert.Equal(t, c.yes, Retryable(fmt.Errorf("connecting to host: %w", err)))
		libPQ(t, &facts{})
		assert.Equal(t, err, SentNothing(err), "nothing is known")
		libPQ(t, lookUp())
	}
	assert.NoError(t, SentNothing(nil))
	other := errors.New("other")
	assert.Equal(t, other, SentNothing(other))
}

// After these, lib/pq takes the rest of a reply for the answer to the next question.
func TestOutOfStepOnAServer(t *testing.T) {
	long := strings.Repeat("x", 40_000) // comes back in the error, of which lib/pq reads 30,000 bytes
	arg := driver.NamedValue{Ordinal: 1, Value: long}
	dsn := pgtest.DSN(t)
	for _, c := range []struct {
		name, query, text string
		args              []driver.NamedValue
	}{
		{"long error", "SELECT '" + long + "'::int", "pq: server error: ", nil},
		{"long error about an argument", "SELECT $1::int", "pq: server error: ", []driver.NamedValue{arg}},
		{"COPY among others", "SELECT 1; COPY (SELECT 1 WHERE false) TO STDOUT; SELECT 42", "pq: unexpected message after execute: ", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _ := mustDial(t, dsn)
			_, err := run(t.Context(), conn, c.query, c.args...)
			require.ErrorContains(t, err, c.text)
			assert.True(t, OutOfStep(err))
			assert.True(t, OutOfStep(fmt.Errorf("query: %w", err)))
			assert.True(t, conn.(driver.Validator).IsValid(), "lib/pq has not noticed")
		})
	}
}

func TestOutOfStepAfterwards(t *testing.T) {
	const complete = "C\x00\x00\x00\x0dSELECT 1\x00" // with what follows from it
	for _, c := range []struct {
		says, text string
		ask        func(driver.Conn) error
	}{
		{readyForQuery, "unexpected ReadyForQuery", func(conn driver.Conn) error {
			_, err := conn.(driver.ExecerContext).ExecContext(t.Context(), "SELECT 1", nil)
			return err
		}},
		{complete + readyForQuery, "unexpected command tag SELECT", func(conn driver.Conn) error {
			_, err := conn.(driver.ConnBeginTx).BeginTx(t.Context(), driver.TxOptions{Isolation: driver.IsolationLevel(sql.LevelDefault)})
			return err
		}},
	} {
		d := specimenDialer{socket: &specimenSocket{says: strings.NewReader(authenticated + backendKey + readyForQuery + c.says)}}
		conn, err := d.connect()
		require.NoError(t, err)
		err = c.ask(conn)
		require.ErrorContains(t, err, c.text)
		assert.True(t, OutOfStep(err))
	}
}

// Errors that lib/pq reads to their end, or meets before it asks.
func TestInStep(t *testing.T) {
	conn, _ := mustDial(t, pgtest.DSN(t))
	before, _ := BackendPID(conn)
	for _, query := range []string{
		"SELECT 1/0", "nonsense", "DO $$ BEGIN RAISE EXCEPTION 'pq: server error: unexpected ReadyForQuery'; END $$",
		"SELECT '" + strings.Repeat("x", 20_000) + "'::int", "SELECT 1; SELECT 1/0", "SELECT $1::int",
	} {
		_, err := run(t.Context(), conn, query)
		require.Error(t, err)
		assert.False(t, OutOfStep(err), "%v", err)
	}
	_, err := run(t.Context(), conn, "SELECT $1::int", driver.NamedValue{Ordinal: 1, Value: int64(1)}, driver.NamedValue{Ordinal: 2, Value: int64(1)})
	assert.False(t, OutOfStep(err))
	assert.False(t, OutOfStep(nil))
	assert.False(t, OutOfStep(driver.ErrBadConn))
	after, err := run(t.Context(), conn, "SELECT pg_backend_pid()")
	require.NoError(t, err)
	assert.Equal(t, before, after)
}
