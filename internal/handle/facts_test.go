package handle_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// What the package leans on in database/sql and its documentation does not promise. Each test states a fact on plain
// database/sql, and fails when it is no longer so. Then the code that leans on it has to change.

// script is what calls of a kind do: see kindOf.
type script map[string]func() error

// plainSets opens a handle of a scripted driver with the given optional interfaces.
func plainSets(t *testing.T, sets recorder.Sets, do script) (*sql.DB, *recorder.Recorder) {
	r := recorder.New(sets, recorder.Script{Results: results, Call: func(c recorder.Call) error {
		if f := do[kindOf(c.Method)]; f != nil {
			return f()
		}
		return nil
	}})
	db := sql.OpenDB(r.Connector())
	t.Cleanup(func() { _ = db.Close() })
	return db, r
}

func plain(t *testing.T, do script) (*sql.DB, *recorder.Recorder) { return plainSets(t, fullSets, do) }

// log gives the calls since it was last asked: "1 Exec" is one to connection 1.
func log(r *recorder.Recorder) (calls []string) {
	for _, c := range r.Take() {
		calls = append(calls, fmt.Sprintf("%d %s", c.Conn, kindOf(c.Method)))
	}
	return calls
}

// recovered gives what f panics with.
func recovered(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// stillWaits fails if ended is closed soon.
func stillWaits(t *testing.T, ended <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ended:
		t.Error(what)
	case <-time.After(20 * time.Millisecond):
	}
}

func badConn() error { return driver.ErrBadConn }

// ErrBadConn from Connect has it called three times. A pool_timeout that said so would be three waits, and the inner
// *sql.DB makes of it the dials of the plain driver.
func TestFactBadConnFromConnect(t *testing.T) {
	db, r := plain(t, script{"Connector.Connect": badConn})
	_, err := db.Conn(t.Context())
	assert.Equal(t, driver.ErrBadConn, err)
	assert.Equal(t, slices.Repeat([]string{"0 Connector.Connect"}, 3), log(r))
}

// The third attempt never uses an idle connection: it is a new one, which has to work.
func TestFactThirdAttemptIsNew(t *testing.T) {
	fails := 0
	db, r := plain(t, script{"Exec": func() error {
		if fails--; fails >= 0 {
			return driver.ErrBadConn
		}
		return nil
	}})
	db.SetMaxIdleConns(3)
	var conns []*sql.Conn
	for range 3 {
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		conns = append(conns, c)
	}
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	log(r)
	fails = 2
	_, err := db.ExecContext(t.Context(), "q")
	require.NoError(t, err)
	assert.Equal(t, []int{1, 4}, r.Open(), "connection 1 was idle, and is not what the third attempt took")
}

// A returned connection whose caller has just stopped waiting for it is returned again: IsValid twice in a row.
func TestFactIsValidTwice(t *testing.T) {
	var cancel context.CancelFunc
	db, r := plain(t, script{"IsValid": func() error {
		if cancel != nil {
			cancel() // after it, the return gives the connection to the caller that is about to run
		}
		return nil
	}})
	db.SetMaxOpenConns(1)
	for range 1000 {
		cancel = nil
		holder, err := db.Conn(t.Context())
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		waits, done := db.Stats().WaitCount, make(chan struct{})
		go func() {
			defer close(done)
			if c, err := db.Conn(ctx); err == nil {
				_ = c.Close()
			}
		}()
		for db.Stats().WaitCount == waits {
			time.Sleep(time.Microsecond)
		}
		log(r)
		cancel = stop
		require.NoError(t, holder.Close())
		<-done
		if calls := log(r); len(calls) >= 2 && calls[0] == "1 IsValid" && calls[1] == "1 IsValid" {
			return
		}
	}
	t.Error("not seen")
}

// After ErrBadConn a connection is closed without the question whether it is valid: to a lease that is held, Close alone
// says that it broke.
func TestFactBadConnIsNotAsked(t *testing.T) {
	db, r := plain(t, script{"Exec": badConn})
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	log(r)
	_, err = c.ExecContext(t.Context(), "q")
	assert.Equal(t, driver.ErrBadConn, err)
	assert.Equal(t, []string{"1 Exec", "1 Close"}, log(r))
}

// Errors of ResetSession are ignored, unless they match ErrBadConn.
func TestFactResetErrors(t *testing.T) {
	var answer error
	db, r := plain(t, script{"ResetSession": func() error { return answer }})
	for _, test := range []struct {
		err  error
		open []int
	}{
		{errDriver, []int{1}},
		{context.Canceled, []int{1}},
		{fmt.Errorf("wrapped: %w", driver.ErrBadConn), []int{2}},
	} {
		require.NoError(t, db.PingContext(t.Context()))
		answer = test.err
		require.NoError(t, db.PingContext(t.Context()))
		assert.Equal(t, test.open, r.Open(), test.err)
		answer = nil
	}
}

// After a rollback by a context, a connection is kept if it has both SessionResetter and Validator, whatever they say.
func TestFactKeepConnOnRollback(t *testing.T) {
	for _, test := range []struct {
		missing recorder.ConnSet
		kept    bool
	}{
		{0, true},
		{recorder.ConnSessionResetter, false},
		{recorder.ConnValidator, false},
		{recorder.ConnSessionResetter | recorder.ConnValidator, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			sets := fullSets
			sets.Conn &^= test.missing
			db, r := plainSets(t, sets, nil)
			c, err := db.Conn(t.Context())
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			_, err = c.BeginTx(ctx, nil)
			require.NoError(t, err)
			cancel()
			synctest.Wait()
			assert.Contains(t, log(r), "1 Tx.Rollback")
			if test.kept {
				assert.NoError(t, c.PingContext(t.Context()))
			} else {
				assert.Equal(t, sql.ErrConnDone, c.PingContext(t.Context()))
			}
			assert.Equal(t, test.kept, len(r.Open()) == 1)
			_ = c.Close()
			require.NoError(t, db.Close())
		})
	}
}

// ErrSkip, ErrRemoveArgument and io.EOF are compared by identity: what wraps one is an error like any other.
func TestFactSentinelsByIdentity(t *testing.T) {
	for _, wrap := range []func(error) error{
		func(err error) error { return err },
		func(err error) error { return fmt.Errorf("wrapped: %w", err) },
	} {
		db, r := plain(t, script{
			"Exec":      func() error { return wrap(driver.ErrSkip) },
			"Rows.Next": func() error { return wrap(io.EOF) },
		})
		means := wrap(io.EOF) == io.EOF
		_, err := db.ExecContext(t.Context(), "q")
		assert.Equal(t, means, err == nil)
		assert.Equal(t, means, slices.Contains(log(r), "1 Prepare"))

		rows, err := db.QueryContext(t.Context(), "three")
		require.NoError(t, err)
		assert.False(t, rows.Next())
		assert.Equal(t, means, rows.Err() == nil)
		require.NoError(t, rows.Close())

		removes := recorder.New(fullSets, recorder.Script{CheckNamedValue: func(*driver.NamedValue) error {
			return wrap(driver.ErrRemoveArgument)
		}})
		other := sql.OpenDB(removes.Connector())
		_, err = other.ExecContext(t.Context(), "q", 1)
		assert.Equal(t, means, err == nil)
		require.NoError(t, other.Close())
	}
}

// What CheckNamedValue says about an argument gets its name before it. It is not the place to say that a lease is gone.
func TestFactArgumentErrors(t *testing.T) {
	r := recorder.New(fullSets, recorder.Script{CheckNamedValue: func(*driver.NamedValue) error { return errDriver }})
	db := sql.OpenDB(r.Connector())
	defer db.Close()
	_, err := db.ExecContext(t.Context(), "q", 1)
	assert.EqualError(t, err, "sql: converting argument $1 type: driver: code 42")
}

// DB.Close closes a connector that can be closed, once, after the idle connections. It gives the last error.
func TestFactCloseConnector(t *testing.T) {
	errLast := errors.New("last")
	db, r := plain(t, script{
		"Close":           func() error { return errDriver },
		"Connector.Close": func() error { return errLast },
	})
	require.NoError(t, db.PingContext(t.Context()))
	log(r)
	assert.Equal(t, errLast, db.Close())
	assert.NoError(t, db.Close())
	assert.Equal(t, []string{"1 Close", "0 Connector.Close"}, log(r))
}

// A panic in Connect or Close leaves the count of open connections one too high for ever. Both are contained in sessions.
func TestFactPanicsCount(t *testing.T) {
	for _, kind := range []string{"Connector.Connect", "Close"} {
		panics := true
		db, _ := plain(t, script{kind: func() error {
			if panics {
				panic("driver")
			}
			return nil
		}})
		db.SetMaxOpenConns(1)
		db.SetMaxIdleConns(-1) // each return is a Close
		assert.Equal(t, "driver", recovered(func() { _ = db.PingContext(t.Context()) }), kind)
		panics = false
		assert.Equal(t, 1, db.Stats().OpenConnections, kind)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		assert.Equal(t, context.DeadlineExceeded, db.PingContext(ctx), kind)
		cancel()
	}
}

// A panic in Query, Begin or ResetSession never releases the connection, which is lost with it. One in Exec does.
func TestFactPanicsHold(t *testing.T) {
	for kind, held := range map[string]int{"Query": 1, "Begin": 1, "ResetSession": 1, "Exec": 0, "Ping": 1} {
		armed := false
		db, _ := plain(t, script{kind: func() error {
			if armed {
				panic("driver")
			}
			return nil
		}})
		require.NoError(t, db.PingContext(t.Context()))
		armed = true
		assert.Equal(t, "driver", recovered(func() {
			switch kind {
			case "Query":
				_, _ = db.QueryContext(t.Context(), "q")
			case "Begin":
				_, _ = db.BeginTx(t.Context(), nil)
			case "Ping":
				_ = db.PingContext(t.Context())
			default:
				_, _ = db.ExecContext(t.Context(), "q")
			}
		}), kind)
		assert.Equal(t, held, db.Stats().InUse, kind)
	}
}

// sql.Conn.Close, and Raw with ErrBadConn, wait for open rows.
func TestFactCloseWaitsForRows(t *testing.T) {
	for name, closes := range map[string]func(*sql.Conn) error{
		"Close": (*sql.Conn).Close,
		"Raw":   func(c *sql.Conn) error { return c.Raw(func(any) error { return driver.ErrBadConn }) },
	} {
		db, r := plain(t, nil)
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		rows, err := c.QueryContext(t.Context(), "three")
		require.NoError(t, err)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = closes(c)
		}()
		stillWaits(t, ended, name+" did not wait")
		assert.True(t, rows.Next(), name)
		log(r)
		require.NoError(t, rows.Close())
		<-ended
		assert.Equal(t, "1 Rows.Close", log(r)[0], name)
	}
}

// The end of a context closes rows between two calls, never beside one: what a lease knows of its results needs no lock.
func TestFactRowsCloseWaitsForNext(t *testing.T) {
	begun, goOn, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	db, _ := plain(t, script{
		"Rows.Next": func() error {
			close(begun)
			<-goOn
			return nil
		},
		"Rows.Close": func() error {
			close(closed)
			return nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	rows, err := db.QueryContext(ctx, "three")
	require.NoError(t, err)
	go rows.Next()
	<-begun
	cancel()
	stillWaits(t, closed, "rows were closed while Next ran")
	close(goOn)
	<-closed
}

// scanner is a destination of Scan.
type scanner func() error

func (s scanner) Scan(any) error { return s() }

// Nor does anything close rows beside Scan, since Go 1.25. It asks them for a column's name when a destination refuses a
// value: rows that were used again meanwhile would give that of another query.
func TestFactRowsCloseWaitsForScan(t *testing.T) {
	for name, end := range map[string]func(*sql.Rows, context.CancelFunc){
		"the end of a context": func(_ *sql.Rows, cancel context.CancelFunc) { cancel() },
		"Close":                func(rows *sql.Rows, _ context.CancelFunc) { _ = rows.Close() },
	} {
		closed := make(chan struct{})
		db, _ := plain(t, script{"Rows.Close": func() error {
			close(closed)
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		rows, err := db.QueryContext(ctx, "three")
		require.NoError(t, err)
		require.True(t, rows.Next())
		err = rows.Scan(scanner(func() error {
			go end(rows, cancel)
			stillWaits(t, closed, name+" closed rows while Scan ran")
			return errDriver
		}))
		assert.ErrorContains(t, err, `name "n"`, name)
		<-closed
		cancel()
	}
}

// A transaction ends once, whoever ends it: a lease's may be used again after that.
func TestFactTxEndsOnce(t *testing.T) {
	db, r := plain(t, nil)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		log(r)
		var enders sync.WaitGroup
		enders.Go(func() { _ = tx.Commit() })
		enders.Go(func() { _ = tx.Rollback() })
		enders.Go(cancel)
		enders.Wait()
		pooltest.Eventually(t, "a rollback by the context is over", func() bool { return db.Stats().InUse == 0 })
		ends := slices.DeleteFunc(log(r), func(c string) bool { return !strings.Contains(c, "Tx.") })
		require.Len(t, ends, 1, "%v", ends)
		require.Equal(t, sql.ErrTxDone, tx.Rollback())
		require.Empty(t, log(r))
	}
}

// Raw with ErrBadConn closes the connection, and a request that waits gets a new one, dialled after Close has returned.
// After Close of a sql.Conn it gets the same one.
func TestFactRawClosesWithoutHandingOver(t *testing.T) {
	for _, raw := range []bool{true, false} {
		db, r := plain(t, nil)
		db.SetMaxOpenConns(1)
		holder, err := db.Conn(t.Context())
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = db.PingContext(t.Context())
		}()
		for db.Stats().WaitCount == 0 {
			time.Sleep(time.Microsecond)
		}
		log(r)
		if raw {
			_ = holder.Raw(func(any) error { return driver.ErrBadConn })
		} else {
			_ = holder.Close()
		}
		<-done
		calls := slices.DeleteFunc(log(r), func(c string) bool { return c == "1 IsValid" || c == "2 IsValid" })
		if raw {
			assert.Equal(t, []string{"1 Close", "0 Connector.Connect", "2 Ping"}, calls)
		} else {
			assert.Equal(t, []string{"1 ResetSession", "1 Ping"}, calls)
		}
	}
}

// Statements of DB.Prepare are closed before their connection is. Those of a sql.Conn are not, and their own Close can come
// after the connection's.
func TestFactStatementsOfConn(t *testing.T) {
	db, r := plain(t, nil)
	shared, err := db.PrepareContext(t.Context(), "shared")
	require.NoError(t, err)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	own, err := c.PrepareContext(t.Context(), "own")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, db.Close())
	var calls []string
	for _, call := range r.Take() {
		if kind := kindOf(call.Method); kind == "Close" || kind == "Stmt.Close" {
			calls = append(calls, kind+" "+call.Query)
		}
	}
	assert.Equal(t, []string{"Stmt.Close shared", "Close "}, calls)
	require.NoError(t, own.Close())
	require.NoError(t, shared.Close())
	assert.Equal(t, []string{"1 Stmt.Close after Close"}, log(r))
}
