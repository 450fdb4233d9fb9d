package fallback

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// old is a connection, a statement and a transaction without the newer interfaces.
type old struct {
	closed, rolledBack bool
	ran                []driver.Value
	during             func()
}

func (o *old) call() {
	if o.during != nil {
		o.during()
	}
}

func (o *old) Prepare(string) (driver.Stmt, error) { o.call(); return o, nil }
func (o *old) Begin() (driver.Tx, error)           { o.call(); return o, nil }
func (o *old) Close() error                        { o.closed = true; return nil }
func (o *old) NumInput() int                       { return -1 }
func (o *old) Commit() error                       { return nil }
func (o *old) Rollback() error                     { o.rolledBack = true; return nil }

func (o *old) Exec(args []driver.Value) (driver.Result, error) { o.ran = args; return nil, nil }
func (o *old) Query(args []driver.Value) (driver.Rows, error)  { o.ran = args; return nil, nil }

func TestStmt(t *testing.T) {
	named := []driver.NamedValue{{Ordinal: 1, Value: "a"}, {Ordinal: 2, Value: int64(7)}}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, run := range map[string]func(context.Context, Stmt, []driver.NamedValue) error{
		"Exec": func(ctx context.Context, st Stmt, args []driver.NamedValue) error {
			_, err := st.ExecContext(ctx, args)
			return err
		},
		"Query": func(ctx context.Context, st Stmt, args []driver.NamedValue) error {
			_, err := st.QueryContext(ctx, args)
			return err
		},
	} {
		o := &old{}
		require.NoError(t, run(t.Context(), Stmt{o}, named), name)
		assert.Equal(t, []driver.Value{"a", int64(7)}, o.ran, name)
		assert.Equal(t, named, Ordinal(o.ran), "and back")

		o = &old{}
		assert.ErrorContains(t, run(t.Context(), Stmt{o}, []driver.NamedValue{{Name: "x"}}), "Named Parameters", name)
		assert.ErrorIs(t, run(over, Stmt{o}, named), context.Canceled, name)
		assert.Nil(t, o.ran, "%s: nothing ran", name)
	}
}

type key struct{}

// newer is a statement that takes contexts itself.
type newer struct {
	old
	got context.Context
}

func (n *newer) ExecContext(ctx context.Context, _ []driver.NamedValue) (driver.Result, error) {
	n.got = ctx
	return nil, errors.New("own")
}

func TestStmtOfANewerDriver(t *testing.T) {
	n := &newer{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	_, err := Stmt{n}.ExecContext(ctx, []driver.NamedValue{{Name: "x"}})
	assert.EqualError(t, err, "own")
	assert.Equal(t, ctx, n.got)
}

func TestPrepare(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := &old{}
	st, err := Prepare(ctx, o, "SELECT 1")
	require.NoError(t, err)
	assert.Equal(t, driver.Stmt(o), st)

	o.during = cancel
	_, err = Prepare(ctx, o, "SELECT 1")
	assert.ErrorIs(t, err, context.Canceled)
	assert.True(t, o.closed, "a statement that comes too late is closed")
}

func TestBegin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := &old{}
	_, err := Begin(ctx, o, driver.TxOptions{})
	require.NoError(t, err)
	_, err = Begin(ctx, o, driver.TxOptions{ReadOnly: true})
	assert.ErrorContains(t, err, "read-only")
	_, err = Begin(ctx, o, driver.TxOptions{Isolation: 4})
	assert.ErrorContains(t, err, "isolation")

	o.during = cancel
	_, err = Begin(ctx, o, driver.TxOptions{})
	assert.ErrorIs(t, err, context.Canceled)
	assert.True(t, o.rolledBack, "a transaction that comes too late is rolled back")
}
