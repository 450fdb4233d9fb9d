package recorder_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-lifeguard/lifeguard/internal/fakedriver/recorder"
)

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}

func bits(list ...bool) (set int) {
	for i, in := range list {
		if in {
			set |= 1 << i
		}
	}
	return set
}

func connect(t *testing.T, r *recorder.Recorder) driver.Conn {
	t.Helper()
	c, err := r.Connector().Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The interfaces are asserted here as database/sql asserts them, one by one
// and by their names in package driver.

func TestConnSets(t *testing.T) {
	for set := recorder.ConnSet(0); set <= recorder.ConnAll; set++ {
		c := connect(t, recorder.New(recorder.Sets{Conn: set}, recorder.Script{}))
		got := bits(
			is[driver.Pinger](c),
			is[driver.Execer](c), //lint:ignore SA1019 deprecated, and in use
			is[driver.ExecerContext](c),
			is[driver.Queryer](c), //lint:ignore SA1019 deprecated, and in use
			is[driver.QueryerContext](c),
			is[driver.ConnPrepareContext](c),
			is[driver.ConnBeginTx](c),
			is[driver.SessionResetter](c),
			is[driver.Validator](c),
			is[driver.NamedValueChecker](c),
		)
		if got != int(set) {
			t.Errorf("set %010b has %010b", set, got)
		}
		if got := recorder.ConnSetOf(c); got != set {
			t.Errorf("ConnSetOf = %010b, want %010b", got, set)
		}
	}
}

func TestStmtSets(t *testing.T) {
	for set := recorder.StmtSet(0); set <= recorder.StmtAll; set++ {
		st, err := connect(t, recorder.New(recorder.Sets{Stmt: set}, recorder.Script{})).Prepare("q")
		if err != nil {
			t.Fatal(err)
		}
		got := bits(
			is[driver.StmtExecContext](st),
			is[driver.StmtQueryContext](st),
			is[driver.NamedValueChecker](st),
			is[driver.ColumnConverter](st), //lint:ignore SA1019 deprecated, and in use
		)
		if got != int(set) {
			t.Errorf("set %04b has %04b", set, got)
		}
		if got := recorder.StmtSetOf(st); got != set {
			t.Errorf("StmtSetOf = %04b, want %04b", got, set)
		}
	}
}

func TestRowsSets(t *testing.T) {
	for set := recorder.RowsSet(0); set <= recorder.RowsAll; set++ {
		c := connect(t, recorder.New(recorder.Sets{Conn: recorder.ConnAll, Rows: set}, recorder.Script{}))
		rs, err := c.(driver.QueryerContext).QueryContext(t.Context(), "q", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := bits(
			is[driver.RowsNextResultSet](rs),
			is[driver.RowsColumnTypeScanType](rs),
			is[driver.RowsColumnTypeDatabaseTypeName](rs),
			is[driver.RowsColumnTypeLength](rs),
			is[driver.RowsColumnTypeNullable](rs),
			is[driver.RowsColumnTypePrecisionScale](rs),
		)
		if got != int(set) {
			t.Errorf("set %06b has %06b", set, got)
		}
		if got := recorder.RowsSetOf(rs); got != set {
			t.Errorf("RowsSetOf = %06b, want %06b", got, set)
		}
	}
}

func TestConnectorAndDriverSets(t *testing.T) {
	for _, with := range []bool{false, true} {
		r := recorder.New(recorder.Sets{ConnectorCloser: with, DriverContext: with}, recorder.Script{})
		if got := is[io.Closer](r.Connector()); got != with {
			t.Errorf("io.Closer: %t, want %t", got, with)
		}
		if got := is[driver.DriverContext](r.Driver()); got != with {
			t.Errorf("DriverContext: %t, want %t", got, with)
		}
	}
}

func TestLog(t *testing.T) {
	fail := errors.New("scripted")
	r := recorder.New(recorder.Sets{Conn: recorder.ConnQueryerContext | recorder.ConnSessionResetter}, recorder.Script{
		Call: func(c recorder.Call) error {
			if c.Query == "fail" {
				return fail
			}
			return nil
		},
		NumInput: func(query string) int { return strings.Count(query, "?") },
	})
	db := sql.OpenDB(r.Connector())
	ctx := recorder.WithTag(t.Context(), "here")
	var n int
	if err := db.QueryRowContext(ctx, "q", "a", []byte("b"), sql.Named("c", 3)).Scan(&n); err != nil || n != 1 {
		t.Error(n, err)
	}
	if _, err := db.Exec("? ?", 1); err == nil {
		t.Error("too few arguments were accepted")
	}
	if _, err := db.Exec("fail"); !errors.Is(err, fail) {
		t.Error(err)
	}
	if got := r.Open(); !slices.Equal(got, []int{1}) {
		t.Errorf("Open = %v", got)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Raw(func(dc any) error {
		if r.ConnID(dc) != 1 {
			t.Errorf("ConnID = %d", r.ConnID(dc))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	db.Close()
	if len(r.Open()) != 0 || r.ConnID("else") != 0 {
		t.Errorf("Open = %v", r.Open())
	}
	var got []string
	for _, c := range r.Take() {
		got = append(got, c.String())
	}
	want := []string{
		`conn 0: Connector.Connect "" ctx(here)`,
		`conn 1: QueryContext "q" ctx(here can end) [$1=string(a), $2=[]byte("b"), $3:c=int64(3)]`,
		`conn 1: Rows.Next "q" into 1`,
		`conn 1: Rows.Close "q"`,
		`conn 1: ResetSession "" ctx()`,
		`conn 1: Prepare "? ?"`,
		`conn 1: Stmt.Close "? ?"`,
		`conn 1: ResetSession "" ctx()`,
		`conn 1: Prepare "fail"`,
		`conn 1: ResetSession "" ctx( can end)`,
		`conn 1: Close ""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Use after Close shows in the log.
func TestLogShowsUseAfterClose(t *testing.T) {
	r := recorder.New(recorder.Sets{}, recorder.Script{})
	c := connect(t, r)
	st, err := c.Prepare("q")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	st.Close()
	calls := r.Take()
	for i, want := range []string{"Close", "Close after Close", "Stmt.Close after Close"} {
		if got := calls[2+i].Method; got != want {
			t.Errorf("call %d is %q, want %q", i, got, want)
		}
	}
}
