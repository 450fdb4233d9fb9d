package lifeguard

import (
	"context"
	"database/sql/driver"
	"errors"
	"strconv"
	"strings"
)

// directStmt stands for a prepared statement where none may exist: behind a pooler that gives each transaction another
// server connection, or where statements were turned off. Each execution runs the text, as if it had not been prepared.
type directStmt struct {
	session *session
	text    string
	inputs  int // -1 if it is not known
}

var (
	_ driver.StmtExecContext  = (*directStmt)(nil)
	_ driver.StmtQueryContext = (*directStmt)(nil)
)

func (d *directStmt) Close() error { return nil }

func (d *directStmt) NumInput() int { return d.inputs }

func (d *directStmt) Exec(args []driver.Value) (driver.Result, error) {
	return d.ExecContext(context.Background(), ordinal(args))
}

func (d *directStmt) Query(args []driver.Value) (driver.Rows, error) {
	return d.QueryContext(context.Background(), ordinal(args))
}

func (d *directStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return d.session.execer.ExecContext(ctx, d.text, args)
}

func (d *directStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return d.session.queryer.QueryContext(ctx, d.text, args)
}

// unprepared gives the stand-in for a statement that must not be prepared by name; nil if it may.
func (s *session) unprepared(ctx context.Context, query string) (*directStmt, error) {
	pooled := s.pool.cfg.PgBouncer && (s.kept.kind == libPQ || s.kept.kind == pgxStdlib)
	off := s.pool.cfg.StatementCacheSize == 0 && s.kept.kind == libPQ
	if !pooled && !off {
		return nil, nil
	}
	if verb, _ := leadingVerb(query); verb == "COPY" {
		return nil, nil // lib/pq has its own way with it, in which nothing is named
	}
	d := &directStmt{session: s, text: query, inputs: -1}
	if s.kept.onePiece || pooled {
		return d, nil // such queries go to the server in one piece, there is no looking at them before
	}
	err := s.describe(ctx, d)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// directAgain gives the stand-in that another session had.
func (s *session) directAgain(d *directStmt) *prepared {
	d = &directStmt{session: s, text: d.text, inputs: d.inputs}
	return &prepared{text: d.text, cache: &s.kept, parent: d, execer: d, queryer: d}
}

// describe has the server read a text without giving it a name, as it would if it were prepared, so that Prepare fails if
// it is wrong. lib/pq does that for a query with arguments. With one too many it gets no further: it is lib/pq that
// refuses, and would be the server if not.
func (s *session) describe(ctx context.Context, d *directStmt) error {
	args := make([]driver.NamedValue, placeholders(d.text)+1)
	for i := range args {
		args[i].Ordinal = i + 1
	}
	rows, err := s.queryDirect(ctx, d.text, args)
	if err == nil {
		return rows.Close()
	}
	switch code := serverCode(err); {
	case code != "" && code != "08P01", errors.Is(err, driver.ErrBadConn):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if _, after, ok := strings.Cut(err.Error(), "the statement requires "); ok {
		if n, err := strconv.Atoi(after); err == nil {
			d.inputs = n
		}
	}
	return nil
}

// placeholders gives the highest number of an argument that query may have.
func placeholders(query string) int {
	most := 0
	for _, after, ok := strings.Cut(query, "$"); ok; _, after, ok = strings.Cut(after, "$") {
		n := 0
		for i := 0; i < len(after) && after[i] >= '0' && after[i] <= '9' && n < maxArguments; i++ {
			n = 10*n + int(after[i]-'0')
		}
		most = max(most, n)
	}
	return min(most, maxArguments)
}

// maxArguments is the most that PostgreSQL's protocol has room for.
const maxArguments = 65535
