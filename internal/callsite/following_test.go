package callsite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// resetConn notes what ToFollow says each time it is checked out.
type resetConn struct {
	last Followed
	said []Following
}

func (c *resetConn) ResetSession(context.Context) error {
	c.said = append(c.said, ToFollow(&c.last))
	return nil
}

func (c *resetConn) Ping(context.Context) error                 { return nil }
func (c *resetConn) Close() error                               { return nil }
func (c *resetConn) Begin() (driver.Tx, error)                  { return resetTx{}, nil }
func (c *resetConn) Prepare(string) (driver.Stmt, error)        { return &resetStmt{}, nil }
func (c *resetConn) CheckNamedValue(v *driver.NamedValue) error { return nil }

func (c *resetConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}

func (c *resetConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return (&resetStmt{}).Query(nil)
}

type resetTx struct{}

func (resetTx) Commit() error   { return nil }
func (resetTx) Rollback() error { return nil }

type resetStmt struct{}

func (*resetStmt) Close() error                               { return nil }
func (*resetStmt) NumInput() int                              { return -1 }
func (*resetStmt) Exec([]driver.Value) (driver.Result, error) { return driver.RowsAffected(1), nil }
func (*resetStmt) Query([]driver.Value) (driver.Rows, error)  { return emptyRows{}, nil }

type emptyRows struct{}

func (emptyRows) Columns() []string         { return []string{"n"} }
func (emptyRows) Close() error              { return nil }
func (emptyRows) Next([]driver.Value) error { return sql.ErrNoRows }

// Methods of these are promoted, as those of a lease are.
type (
	promoted struct{ resetConn }
	deeper   struct{ promoted }
)

type resetConnector struct{ conn driver.Conn }

func (c resetConnector) Connect(context.Context) (driver.Conn, error) { return c.conn, nil }
func (resetConnector) Driver() driver.Driver                          { return nil }

func TestToFollow(t *testing.T) {
	if !Cheap {
		t.Skip("the stack cannot be walked here")
	}
	plain, once, twice := &resetConn{}, &promoted{}, &deeper{}
	for _, c := range []struct {
		name  string
		conn  driver.Conn
		reset *resetConn
	}{{"direct", plain, plain}, {"promoted", once, &once.resetConn}, {"promoted twice", twice, &twice.resetConn}} {
		t.Run(c.name, func(t *testing.T) {
			db := sql.OpenDB(resetConnector{c.conn})
			defer db.Close()
			db.SetMaxOpenConns(1)
			ctx := context.Background()
			st, err := db.Prepare("SELECT")
			require.NoError(t, err)
			defer st.Close()
			steps := []struct {
				name string
				want Following
				run  func() error
			}{
				{"Exec", Exec, func() error { _, err := db.Exec("DO"); return err }},
				{"ExecContext with an argument", Exec, func() error { _, err := db.ExecContext(ctx, "DO", 1); return err }},
				{"Query", Query, func() error {
					rows, err := db.Query("SELECT")
					if err == nil {
						err = rows.Close()
					}
					return err
				}},
				{"QueryRow", Query, func() error { _ = db.QueryRowContext(ctx, "SELECT").Scan(new(int)); return nil }},
				{"Conn", Unknown, func() error {
					c, err := db.Conn(ctx)
					if err == nil {
						err = c.Close()
					}
					return err
				}},
				{"Begin", Unknown, func() error {
					tx, err := db.Begin()
					if err == nil {
						err = tx.Rollback()
					}
					return err
				}},
				{"Prepare", Unknown, func() error {
					st, err := db.Prepare("SELECT")
					if err == nil {
						err = st.Close()
					}
					return err
				}},
				{"Ping", Unknown, func() error { return db.Ping() }},
				{"Stmt.Exec", Unknown, func() error { _, err := st.Exec(); return err }},
				{"Stmt.Query", Unknown, func() error { _ = st.QueryRow().Scan(new(int)); return nil }},
			}
			for round := range 3 { // learnt, and known; and each after another
				for i := range steps {
					s := steps[(i*(1+2*round))%len(steps)]
					if round == 2 {
						s = steps[len(steps)-1-i]
					}
					c.reset.said = nil
					require.NoError(t, s.run(), s.name)
					if assert.NotEmpty(t, c.reset.said, s.name) {
						assert.Equal(t, s.want, c.reset.said[0], "%s, round %d", s.name, round)
					}
				}
			}
		})
	}
}

// What is not database/sql is not known to do anything next.
func TestToFollowElsewhere(t *testing.T) {
	var c resetConn
	require.NoError(t, c.ResetSession(context.Background()))
	assert.Equal(t, []Following{Unknown}, c.said)
	done := make(chan Following)
	go func() { done <- ToFollow(&c.last) }() // fewer frames than it looks at
	assert.Equal(t, Unknown, <-done)
}

// A search ends also when there is no room to learn any more.
func TestFollowingsAreBounded(t *testing.T) {
	for i := range uintptr(3 * len(followings)) {
		assert.Equal(t, Unknown, followingOf(1<<40+i, 7).what)
	}
	free := 0
	for i := range followings {
		if followings[i].Load() == nil {
			free++
		}
	}
	assert.Equal(t, 1, free)
	for i := range followings {
		followings[i].Store(nil)
	}
}
