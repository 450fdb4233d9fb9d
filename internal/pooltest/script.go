package pooltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

// A Script is one use of database/sql that notes all that a program could see. It runs on the plain driver and through
// lifeguard, and both must give the same lines.
type Script struct {
	*Client
	T     *testing.T
	Ctx   context.Context
	lines []string
}

// CompareScript runs a script on the plain driver and through lifeguard and compares the lines. param, if not empty, is
// for the DSN.
func CompareScript(t *testing.T, dsn string, limit int, param string, run func(*Script)) {
	params := []string{}
	if param != "" {
		params = append(params, param)
	}
	plain := RunScript(t, dsn, "postgres", "postgres", limit, run, params...)
	require.Equal(t, plain, RunScript(t, dsn, "lifeguard", "lifeguard", limit, run, params...))
}

// RunScript runs a script in a subtest called name, on a handle of that driver in an empty schema, and returns its lines.
func RunScript(t *testing.T, dsn, name, driverName string, limit int, run func(*Script), params ...string) (lines []string) {
	t.Helper()
	_, err := OpenControl(t, dsn).Exec("DROP SCHEMA IF EXISTS script CASCADE; DROP SCHEMA IF EXISTS other CASCADE;" +
		"CREATE SCHEMA script; CREATE SCHEMA other")
	require.NoError(t, err)
	t.Run(name, func(t *testing.T) {
		s := &Script{Client: OpenPostgres(t, driverName, dsn, limit, append(params, "search_path=script")...), T: t, Ctx: t.Context()}
		run(s)
		require.NotEmpty(t, s.lines)
		lines = s.lines
	})
	return lines
}

// Note adds a line.
func (s *Script) Note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// Must ends the script at an error that it cannot go on after.
func (s *Script) Must(err error) {
	s.T.Helper()
	require.NoError(s.T, err)
}

// MustExec runs statements that the script needs to go on.
func (s *Script) MustExec(statement string) {
	s.T.Helper()
	_, err := s.Exec(statement)
	s.Must(err)
}

// NoteError notes an error as DescribeError shows it.
func (s *Script) NoteError(what string, err error) {
	s.Note("%s: %s", what, DescribeError(err))
}

// DescribeError shows an error: its text and type, those of the errors it wraps, and all fields of a server's error.
func DescribeError(err error) string {
	if err == nil {
		return "no error"
	}
	var b strings.Builder
	for e := err; e != nil; e = errors.Unwrap(e) {
		fmt.Fprintf(&b, "%T %q; ", e, e)
	}
	var pqErr *pq.Error
	if errors.As(err, &pqErr) {
		fmt.Fprintf(&b, "code %s, severity %s, detail %q, hint %q, where %q, schema %q, table %q, column %q, constraint %q, position %q, %q",
			pqErr.Code, pqErr.Severity, pqErr.Detail, pqErr.Hint, pqErr.Where, pqErr.Schema, pqErr.Table, pqErr.Column,
			pqErr.Constraint, pqErr.Position, pqErr.ErrorWithDetail())
	}
	return b.String()
}

// Show shows a value with its type.
func Show(v any) string {
	switch v := v.(type) {
	case []byte:
		return fmt.Sprintf("[]byte %q nil=%t", v, v == nil)
	case time.Time:
		return fmt.Sprintf("time %s %s", v.Format(time.RFC3339Nano), v.Location())
	default:
		return fmt.Sprintf("%T %#v", v, v)
	}
}

// ScanRows notes all rows of all result sets, and closes them.
func (s *Script) NoteRows(what string, rows *sql.Rows, err error) {
	s.T.Helper()
	s.NoteError(what, err)
	if err != nil {
		return
	}
	for set := 0; ; set++ {
		columns, err := rows.Columns()
		s.Note("%s: set %d: columns %q, %s", what, set, columns, DescribeError(err))
		for rows.Next() {
			s.Note("%s: row %s", what, s.ScanRow(rows, len(columns)))
		}
		s.NoteError(what+": after the rows", rows.Err())
		if !rows.NextResultSet() {
			break
		}
	}
	s.NoteError(what+": at the end", rows.Err())
	s.NoteError(what+": close", rows.Close())
}

// ScanRow scans a row and returns its values as text. It adds no line.
func (s *Script) ScanRow(rows interface{ Scan(...any) error }, columns int) string {
	values, dest := make([]any, columns), make([]any, columns)
	for i := range dest {
		dest[i] = &values[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return DescribeError(err)
	}
	texts := make([]string, columns)
	for i, v := range values {
		texts[i] = Show(v)
	}
	return strings.Join(texts, ", ")
}

// NoteQuery runs a query and notes its rows.
func (s *Script) NoteQuery(query string, args ...any) {
	s.T.Helper()
	rows, err := s.QueryContext(s.Ctx, query, args...)
	s.NoteRows(query, rows, err)
}

// A RowQueryer is a handle, a connection or a transaction.
type RowQueryer interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// PID returns the process of the server that serves q.
func (s *Script) PID(q RowQueryer) (pid int) {
	s.T.Helper()
	s.Must(q.QueryRowContext(s.Ctx, "SELECT pg_backend_pid()").Scan(&pid))
	return pid
}
