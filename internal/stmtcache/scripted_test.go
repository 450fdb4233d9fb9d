package stmtcache

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

// scripted is a connection that takes down what it is asked for, and fails as it is told.
type scripted struct {
	t        *testing.T
	now      int64
	log      []string
	fail     map[string][]error // the next answers, by operation and text: "prepare SELECT 1"
	numbers  map[string]int64   // answers to questions
	prepared int
	alive    map[int]string // prepared and not closed
	inUse    bool           // a result is open: nothing may be prepared or closed
	during   func()         // is called once, while a text or a statement runs
}

// rig is a cache over a scripted connection.
type rig struct {
	*scripted
	*Cache
	shared *Shared
	logged bytes.Buffer
}

func newRig(t *testing.T, kind libpq.Kind, size int) *rig {
	r := &rig{scripted: newScripted(t)}
	r.shared = NewShared(Config{Size: size, Name: "shop", Log: slog.New(slog.NewTextHandler(&r.logged, nil)), Now: func() int64 { return r.now }})
	r.Cache = r.shared.New(kind, nil, r.scripted, false)
	r.trusted = kind == libpq.LibPQ // pooler_test.go looks at how that is found out
	return r
}

func newScripted(t *testing.T) *scripted {
	return &scripted{t: t, now: int64(time.Hour), fail: map[string][]error{}, numbers: map[string]int64{mostPrepared: 1 << 14}, alive: map[int]string{}}
}

// What the cache asks MySQL.
const (
	mostPrepared = "SELECT @@max_prepared_stmt_count"
	nowPrepared  = "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'"
)

func (s *scripted) note(operation, text string) error {
	if during := s.during; during != nil && operation != "prepare" {
		s.during = nil
		during()
	}
	s.log = append(s.log, operation+" "+text)
	key := operation + " " + text
	if answers := s.fail[key]; len(answers) > 0 {
		s.fail[key] = answers[1:]
		return answers[0]
	}
	return nil
}

// takeLog gives what was asked for since it was called last.
func (s *scripted) takeLog() []string {
	log := s.log
	s.log = nil
	return log
}

func (s *scripted) Prepare(_ context.Context, query string) (driver.Stmt, error) {
	require.False(s.t, s.inUse, "prepared while a result was open")
	if err := s.note("prepare", query); err != nil {
		return nil, err
	}
	s.prepared++
	s.alive[s.prepared] = query
	return &scriptedStmt{s, s.prepared, query}, nil
}

func (s *scripted) Query(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if strings.Contains(query, "pg_prepared_statements") {
		query = "types"
	}
	if err := s.note("query", query); err != nil {
		return nil, err
	}
	return &oneRow{value: s.numbers[query], named: query == nowPrepared}, nil
}

func (s *scripted) Exec(_ context.Context, query string, _ []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), s.note("exec", query)
}

type scriptedStmt struct {
	conn *scripted
	id   int
	text string
}

func (st *scriptedStmt) Close() error {
	require.False(st.conn.t, st.conn.inUse, "closed while a result was open")
	require.Contains(st.conn.t, st.conn.alive, st.id, "closed twice: %s", st.text)
	delete(st.conn.alive, st.id)
	return st.conn.note("close", st.text)
}

func (st *scriptedStmt) NumInput() int {
	if strings.HasPrefix(st.text, "COPY") {
		return -1
	}
	return 1
}

func (st *scriptedStmt) Exec([]driver.Value) (driver.Result, error) { panic("without a context") }
func (st *scriptedStmt) Query([]driver.Value) (driver.Rows, error)  { panic("without a context") }

func (st *scriptedStmt) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	require.Contains(st.conn.t, st.conn.alive, st.id, "run after it was closed: %s", st.text)
	return driver.RowsAffected(1), st.conn.note("run", st.text)
}

func (st *scriptedStmt) QueryContext(context.Context, []driver.NamedValue) (driver.Rows, error) {
	require.Contains(st.conn.t, st.conn.alive, st.id, "run after it was closed: %s", st.text)
	if err := st.conn.note("run", st.text); err != nil {
		return nil, err
	}
	return &oneRow{value: 1}, nil
}

type oneRow struct {
	value int64
	named bool // a name stands before it
	read  bool
}

func (r *oneRow) Columns() []string {
	if r.named {
		return []string{"name", "n"}
	}
	return []string{"n"}
}

func (r *oneRow) Close() error { return nil }

func (r *oneRow) Next(dest []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, dest[len(dest)-1] = true, r.value
	return nil
}

func arguments(values ...driver.Value) []driver.NamedValue {
	args := make([]driver.NamedValue, len(values))
	for i, v := range values {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return args
}

// exec runs a query as the session does.
func (r *rig) exec(query string, args ...driver.Value) error {
	_, handled, err := r.Cache.Exec(r.t.Context(), query, arguments(args...))
	if !handled {
		_, err = r.scripted.Exec(r.t.Context(), query, arguments(args...))
	}
	return err
}

// must runs a query with an argument that succeeds, and checks what that took.
func (r *rig) must(query string, want ...string) {
	r.t.Helper()
	require.NoError(r.t, r.exec(query, 1))
	r.took(query, want...)
}

// took checks what was asked for, with % for the text.
func (r *rig) took(query string, want ...string) {
	r.t.Helper()
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "%", query)
	}
	require.Equal(r.t, want, r.takeLog())
}

func pgError(code, where, routine string) error {
	return &pq.Error{Code: pqerror.Code(code), Where: where, Routine: routine, Message: "scripted"}
}

// MySQLError is recognised by its name.
type MySQLError struct{ Number uint16 }

func (e *MySQLError) Error() string { return fmt.Sprint("Error ", e.Number) }

var errLost = fmt.Errorf("scripted: %w", driver.ErrBadConn)
