package drivertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/stretchr/testify/require"
)

// A side is one of the two that a script runs on.
type side struct {
	name   string
	ours   bool // through lifeguard
	params func(s *testScript) []string
	open   func(driverName, dsn string) (*sql.DB, error)
}

var (
	plainSide = &side{name: "plain", params: func(s *testScript) []string { return s.params }, open: sql.Open}
	ourSide   = &side{
		name: "lifeguard", ours: true,
		params: func(s *testScript) []string {
			return slices.Concat([]string{fmt.Sprint("connection_limit=", s.limit)}, s.params, s.ours, strings.Fields(*moreParams))
		},
		open: func(driverName, dsn string) (*sql.DB, error) { return lifeguard.Open(driverName, dsn, quiet) },
	}
)

// An outcome is what a program could see of one step.
type outcome struct {
	lines []string
	codes []string // of the errors of each run, "" where there was none
}

// A performance is a script under way on one side.
type performance struct {
	script *testScript
	stage  *stage
	ctx    context.Context
	ours   bool
	things map[string]any // handles, connections, transactions, statements and rows by their names
	ending []io.Closer    // what is still open at the end, in the order of its making
	behind map[string]chan outcome
	seen   numbers
}

// longest bounds a script, so that one which hangs is told from one that takes long.
const longest = 45 * time.Second

// perform runs a script and gives the outcomes of its steps, and the counters of the pool.
func (s *side) perform(t testing.TB, at *stage, script *testScript) (outcomes []outcome, stats lifeguard.Stats) {
	t.Helper()
	require.NoError(t, at.target.empty(at))
	dsn := at.dsn
	for _, p := range s.params(script) {
		dsn = withParam(dsn, p)
	}
	db, err := s.open(at.target.driverName, dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	if !s.ours {
		db.SetMaxOpenConns(script.limit)
		db.SetMaxIdleConns(script.limit)
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	p := &performance{script: script, stage: at, ctx: ctx, ours: s.ours, seen: numbers{}, behind: map[string]chan outcome{},
		things: map[string]any{"db": db, "foreign": at.foreign}}
	for _, st := range script.steps {
		outcomes = append(outcomes, p.settled(p.step(st)))
	}
	for name, ended := range p.behind {
		t.Errorf("%s: %s is not awaited: %v", script.name, name, (<-ended).lines)
	}
	for _, c := range slices.Backward(p.ending) {
		_ = c.Close()
	}
	require.NoError(t, ctx.Err(), "%s, %s: longer than %v", script.name, s.name, longest)
	if pool, ok := lifeguard.PoolOf(db); ok {
		stats = pool.Stats()
	}
	return outcomes, stats
}

// settled makes an outcome comparable with that of the other side.
func (p *performance) settled(o outcome) outcome {
	for i, line := range o.lines {
		o.lines[i] = p.seen.settle(p.stage.withdraw(line))
	}
	return o
}

func (p *performance) step(st *step) outcome {
	switch st.verb {
	case "wait":
		return p.wait(st)
	case "blocked":
		return p.blocked(st)
	case "await":
		ended, begun := p.behind[st.words[0]]
		if !begun {
			return p.wrong("nothing was begun on %s", st.words[0])
		}
		delete(p.behind, st.words[0])
		return <-ended
	}
	thing, ok := p.things[st.who]
	if !ok {
		return outcome{lines: []string{"there is no " + st.who}, codes: []string{missing}}
	}
	if st.behind {
		ended := make(chan outcome, 1)
		p.behind[st.who] = ended
		go func() { ended <- p.use(st, thing) }()
		return outcome{}
	}
	return p.use(st, thing)
}

// Codes of errors that no server gives.
const (
	fromDriver  = "driver"  // of the driver or database/sql
	missing     = "missing" // there is nothing of that name, because making it failed
	wrongScript = "script"
)

// wrong is a mistake of the script's.
func (p *performance) wrong(format string, args ...any) outcome {
	return outcome{lines: []string{fmt.Sprintf(format, args...)}, codes: []string{wrongScript}}
}

// wait lets what lifeguard keeps grow old. The plain driver keeps nothing.
func (p *performance) wait(st *step) outcome {
	period, err := time.ParseDuration(st.words[0])
	if err != nil {
		return p.wrong("%v", err)
	}
	if p.ours {
		select {
		case <-time.After(period):
		case <-p.ctx.Done():
		}
	}
	return outcome{}
}

// blocked waits until a step that was begun waits for a lock, as all others do that were begun, or has ended after all.
func (p *performance) blocked(st *step) outcome {
	ended, begun := p.behind[st.words[0]]
	if !begun {
		return p.wrong("nothing was begun on %s", st.words[0])
	}
	did := outcome{}
	asked := p.until(st, func() (bool, error) {
		if len(ended) > 0 {
			did.lines = append(did.lines, "it has ended")
			return true, nil
		}
		var n, begun int
		for _, e := range p.behind {
			if len(e) == 0 {
				begun++
			}
		}
		err := p.stage.admin.QueryRowContext(p.ctx, p.stage.target.locked).Scan(&n)
		return n >= begun, err
	})
	if len(asked.codes) > 0 {
		return asked
	}
	return did
}

// until asks until the answer is yes.
func (p *performance) until(st *step, ok func() (bool, error)) outcome {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		switch yes, err := ok(); {
		case err != nil:
			return p.wrong("%s: %v", st.text, err)
		case yes:
			return outcome{}
		case time.Now().After(deadline):
			return p.wrong("%s: not within 20 s", st.text)
		}
	}
}

// A caller is a handle, a connection or a transaction.
type caller interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}

// use does one step on what it names.
func (p *performance) use(st *step, thing any) outcome {
	text := p.stage.insert(p.stage.target.rewrite(st.sql))
	switch thing := thing.(type) {
	case caller:
		switch st.verb {
		case "exec":
			return p.each(st, func(o *outcome, args []any) error {
				return o.result(thing.ExecContext(p.ctx, text, args...))
			})
		case "query":
			return p.each(st, func(o *outcome, args []any) error {
				return o.rows(thing.QueryContext(p.ctx, text, args...))
			})
		case "until":
			return p.until(st, func() (yes bool, err error) {
				rows, err := thing.QueryContext(p.ctx, text)
				if err != nil {
					return false, err
				}
				defer rows.Close()
				rows.Next()
				return yes, rows.Scan(&yes)
			})
		case "prepare":
			return p.make(st, func() (io.Closer, error) { return thing.PrepareContext(p.ctx, text) })
		case "rows":
			return p.make(st, func() (io.Closer, error) { return thing.QueryContext(p.ctx, text, st.runs[0]...) })
		}
	case *sql.Stmt:
		switch st.verb {
		case "exec":
			return p.each(st, func(o *outcome, args []any) error { return o.result(thing.ExecContext(p.ctx, args...)) })
		case "query":
			return p.each(st, func(o *outcome, args []any) error { return o.rows(thing.QueryContext(p.ctx, args...)) })
		case "rows":
			return p.make(st, func() (io.Closer, error) { return thing.QueryContext(p.ctx, st.runs[0]...) })
		}
	case *sql.Rows:
		if st.verb == "next" {
			return p.next(st, thing)
		}
	}
	return p.handle(st, thing)
}

// handle does the steps that have no text of SQL.
func (p *performance) handle(st *step, thing any) outcome {
	end := func(f func() error) outcome {
		return p.each(st, func(*outcome, []any) error { return f() })
	}
	switch thing := thing.(type) {
	case *sql.DB:
		switch st.verb {
		case "conn":
			return p.make(st, func() (io.Closer, error) { return thing.Conn(p.ctx) })
		case "tx":
			return p.make(st, func() (io.Closer, error) { return begin(thing.BeginTx(p.ctx, txOptions(st.words))) })
		}
	case *sql.Conn:
		if st.verb == "tx" {
			return p.make(st, func() (io.Closer, error) { return begin(thing.BeginTx(p.ctx, txOptions(st.words))) })
		}
	case tx:
		switch st.verb {
		case "commit":
			return end(thing.Commit)
		case "rollback":
			return end(thing.Rollback)
		case "stmt":
			if s, ok := p.things[st.words[0]].(*sql.Stmt); ok {
				return p.make(st, func() (io.Closer, error) { return thing.StmtContext(p.ctx, s), nil })
			}
		}
	}
	if c, ok := thing.(io.Closer); ok && st.verb == "close" {
		return end(c.Close)
	}
	return p.wrong("%s cannot %s", st.who, st.verb)
}

// A tx is a transaction, which is rolled back at the end of the script if it is still open.
type tx struct{ *sql.Tx }

func begin(t *sql.Tx, err error) (io.Closer, error) { return tx{t}, err }

func (t tx) Close() error { return t.Rollback() }

func txOptions(words []string) *sql.TxOptions {
	options := &sql.TxOptions{}
	for _, word := range words {
		switch word {
		case "read-only":
			options.ReadOnly = true
		case "serializable":
			options.Isolation = sql.LevelSerializable
		case "repeatable-read":
			options.Isolation = sql.LevelRepeatableRead
		}
	}
	return options
}

// make does a step that makes something of a name.
func (p *performance) make(st *step, f func() (io.Closer, error)) outcome {
	return p.each(st, func(*outcome, []any) error {
		made, err := f()
		delete(p.things, st.name)
		if err == nil {
			p.things[st.name] = made
			p.ending = append(p.ending, made)
		}
		return err
	})
}

// each does all runs of a step, and takes down the error of each.
func (p *performance) each(st *step, f func(*outcome, []any) error) outcome {
	var o outcome
	for i, args := range st.runs {
		if len(st.runs) > 1 {
			o.lines = append(o.lines, fmt.Sprintf("run %d", i+1))
		}
		err := f(&o, args)
		code, line := p.failure(err)
		o.codes = append(o.codes, code)
		o.lines = append(o.lines, line)
	}
	return o
}

func (p *performance) failure(err error) (code, line string) {
	if err == nil {
		return "", "no error"
	}
	if code, details := p.stage.target.failure(err); code != "" {
		return code, "error " + code + " " + details
	}
	return fromDriver, fmt.Sprintf("error %q", err)
}

// next reads some rows of an open result.
func (p *performance) next(st *step, rows *sql.Rows) outcome {
	return p.each(st, func(o *outcome, _ []any) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.Join(st.words, ""))
		if err != nil {
			return err
		}
		for range n {
			if !rows.Next() {
				o.lines = append(o.lines, "no more rows")
				return rows.Err()
			}
			if err := o.row(rows, columns); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o *outcome) result(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, rowsErr := res.RowsAffected()
	id, idErr := res.LastInsertId()
	o.lines = append(o.lines, fmt.Sprintf("%d rows affected %v, last id %d %v", n, rowsErr, id, idErr))
	return nil
}

// rows takes down all that a result says.
func (o *outcome) rows(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	for {
		columns, err := rows.Columns()
		if err != nil {
			return errors.Join(err, rows.Close())
		}
		types, err := rows.ColumnTypes()
		if err != nil {
			return errors.Join(err, rows.Close())
		}
		for _, c := range types {
			length, hasLength := c.Length()
			precision, scale, hasScale := c.DecimalSize()
			nullable, known := c.Nullable()
			o.lines = append(o.lines, fmt.Sprintf("column %s %s %v length %d %t decimal %d %d %t nullable %t %t", c.Name(),
				typeName(c), c.ScanType(), length, hasLength, precision, scale, hasScale, nullable, known))
		}
		for rows.Next() {
			if err := o.row(rows, columns); err != nil {
				return errors.Join(err, rows.Close())
			}
		}
		if !rows.NextResultSet() {
			break
		}
		o.lines = append(o.lines, "next result")
	}
	if err := rows.Err(); err != nil {
		_ = rows.Close()
		return err
	}
	return rows.Close()
}

// typeName is what the driver calls a column's type: pgx gives the OID of one that it does not know.
func typeName(c *sql.ColumnType) string {
	name := c.DatabaseTypeName()
	if _, err := strconv.Atoi(name); err == nil {
		return anyBegin + name + anyEnd
	}
	return name
}

func (o *outcome) row(rows *sql.Rows, columns []string) error {
	values, dest := make([]any, len(columns)), make([]any, len(columns))
	for i := range dest {
		dest[i] = &values[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	texts := make([]string, len(columns))
	for i, v := range values {
		if texts[i] = show(v); strings.HasPrefix(columns[i], "any_") {
			texts[i] = anyBegin + texts[i] + anyEnd
		}
	}
	o.lines = append(o.lines, "row "+strings.Join(texts, ", "))
	return nil
}
