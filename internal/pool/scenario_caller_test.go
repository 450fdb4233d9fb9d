package pool_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-lifeguard/lifeguard"
	"github.com/go-lifeguard/lifeguard/internal/fakedriver"
)

// verbs are the steps there are. One that begins like another stands before it.
var verbs = []verb{
	{verb: "repeat until", takes: "D"}, // see perform
	{verb: "deadline", takes: "D", quiet: true, do: (*caller).deadline},
	{verb: "context", takes: "NAME", quiet: true, do: (*caller).context},
	{verb: "cancel", takes: "NAME", quiet: true, do: (*caller).cancel},
	{verb: "on", takes: "NAME", quiet: true, do: (*caller).on},
	{verb: "wait", takes: "D", quiet: true, do: (*caller).wait},
	{verb: "conn", takes: "as PLACE", optional: true, do: (*caller).checkOut},
	{verb: "return", do: (*caller).giveConn},
	{verb: "unwrap", do: (*caller).unwrap},
	{verb: "begin", do: (*caller).begin},
	{verb: "commit", do: (*caller).commit},
	{verb: "rollback", do: (*caller).rollback},
	{verb: "exec", takes: "D or TEXT", optional: true, do: (*caller).exec},
	{verb: "query", takes: "D or TEXT", optional: true, do: (*caller).query},
	{verb: "rows", do: (*caller).openRows},
	{verb: "close rows", do: (*caller).closeRows},
	{verb: "ping", do: (*caller).ping},
	{verb: "prepare", do: (*caller).prepare},
	{verb: "run", do: (*caller).runStatement},
	{verb: "close statement", do: (*caller).closeStatement},
	{verb: "go exec", takes: "D or TEXT", optional: true, do: (*caller).goExec},
	{verb: "limit", takes: "N", do: (*caller).limit},
	{verb: "reset", do: (*caller).reset},
	{verb: "shutdown pool", do: (*caller).shutdownPool},
	{verb: "shutdown", do: (*caller).shutdown},
	{verb: "close", do: (*caller).close},
}

type verb struct {
	verb     string
	takes    string
	optional bool // what it takes may be left out
	quiet    bool // it asks the pool for nothing, so a round does not begin with it
	do       func(*caller, step) error
}

func verbNamed(name string) verb {
	for _, v := range verbs {
		if v.verb == name {
			return v
		}
	}
	return verb{}
}

// round is one run of a caller through its steps.
type round struct {
	caller  string
	began   bool
	arrived time.Duration // when it first asked the pool for something
	served  time.Duration // when that was answered
	ended   time.Duration
	order   int // among all rounds that were served, from 1; 0 if it was not
	over    bool
	err     error
}

// caller is one goroutine of the application.
type caller struct {
	w     *world
	name  string
	moves chan []step
	round *round

	db   *sql.DB
	ctx  context.Context
	ends []context.CancelFunc

	conn, last *sql.Conn // last is the one that was returned
	tx         *sql.Tx
	rows       *sql.Rows
	stmt       *sql.Stmt
}

func (w *world) newCaller(name string) *caller {
	c := &caller{w: w, name: name, moves: make(chan []step, 64), db: w.handles["main"], ctx: context.Background()}
	c.newRound()
	go c.run() // ends with w.dismiss, which world.play waits for
	return c
}

func (c *caller) newRound() {
	c.round = &round{caller: c.name}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.rounds = append(c.w.rounds, c.round)
}

func (c *caller) run() {
	normal := false
	defer func() {
		if !normal {
			c.note(func(r *round) { r.err = errors.Join(r.err, errGoexit) })
			go c.run() // the goroutine is gone, the caller is not
		}
	}()
	for steps := range c.moves {
		c.perform(steps)
	}
	c.giveBack()
	normal = true
	c.w.present.Done()
}

var errGoexit = errors.New("the driver ended the caller's goroutine")

// note changes the round, which the goroutine of the test reads.
func (c *caller) note(change func(*round)) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	change(c.round)
}

// perform goes through the steps of one line, again and again if it says so.
func (c *caller) perform(steps []step) {
	defer c.w.moving.Done()
	if steps[0].verb != "repeat until" {
		if c.round.err == nil {
			c.attempt(steps)
		}
		return
	}
	for c.w.now() < steps[0].took {
		began := c.w.now()
		c.attempt(steps[1:])
		c.giveBack()
		if c.w.now() == began {
			time.Sleep(time.Millisecond) // or time would stand still
		}
		c.newRound()
		c.ctx, c.db = context.Background(), c.w.handles["main"]
	}
}

// attempt goes through steps up to the first that fails, upon which the caller gives back all it has.
func (c *caller) attempt(steps []step) {
	for _, st := range steps {
		v := verbNamed(st.verb)
		c.note(func(r *round) {
			r.over = false
			if !v.quiet && !r.began {
				r.began, r.arrived = true, c.w.now()
			}
		})
		err := c.try(v, st)
		c.note(func(r *round) {
			r.ended, r.err = c.w.now(), err
			if err == nil && !v.quiet && r.order == 0 {
				c.w.served++
				r.order, r.served = c.w.served, r.ended
			}
		})
		if err != nil {
			c.giveBack()
			break
		}
	}
	c.note(func(r *round) { r.over = true })
}

// panicked stands for a panic that came through to the caller.
type panicked struct{ value any }

func (p panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (c *caller) try(v verb, st step) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked{p}
		}
	}()
	return v.do(c, st)
}

// giveBack returns whatever the caller has.
func (c *caller) giveBack() {
	defer func() { _ = recover() }() // the driver may panic here too
	for _, end := range c.ends {
		defer end()
	}
	rows, stmt, tx, conn := c.rows, c.stmt, c.tx, c.conn
	c.ends, c.rows, c.stmt, c.tx, c.conn = nil, nil, nil, nil, nil
	if conn != nil {
		defer conn.Close()
	}
	if tx != nil {
		defer tx.Rollback()
	}
	if stmt != nil {
		defer stmt.Close()
	}
	if rows != nil {
		defer rows.Close()
	}
}

func (c *caller) deadline(st step) error {
	ctx, cancel := context.WithTimeout(c.ctx, st.took)
	c.ctx, c.ends = ctx, append(c.ends, cancel)
	return nil
}

func (c *caller) context(st step) error { c.ctx = c.w.context(st.word).Context; return nil }
func (c *caller) cancel(st step) error  { c.w.context(st.word).cancel(); return nil }
func (c *caller) on(st step) error      { c.db = c.w.handles[st.word]; return nil }
func (c *caller) wait(st step) error    { time.Sleep(st.took); return nil }

// places are functions of an application, to be found in reports of who holds a connection.
var places = map[string]func(context.Context, *sql.DB) (*sql.Conn, error){"export": export, "report": report}

func export(ctx context.Context, db *sql.DB) (*sql.Conn, error) { return db.Conn(ctx) }
func report(ctx context.Context, db *sql.DB) (*sql.Conn, error) { return db.Conn(ctx) }

func (c *caller) checkOut(st step) (err error) {
	if place := places[st.word]; place != nil {
		c.conn, err = place(c.ctx, c.db)
	} else {
		c.conn, err = c.db.Conn(c.ctx)
	}
	return err
}

func (c *caller) giveConn(step) error {
	if c.conn != nil {
		c.last, c.conn = c.conn, nil
	}
	return c.last.Close()
}

// unwrap fails unless the driver's own connection is behind the caller's.
func (c *caller) unwrap(step) error {
	return c.conn.Raw(func(dc any) error {
		if _, ok := lifeguard.Unwrap(dc).(*fakedriver.Conn); !ok {
			return fmt.Errorf("behind %T there is no connection of the driver's", dc)
		}
		return nil
	})
}

func (c *caller) begin(step) (err error) {
	if c.conn != nil {
		c.tx, err = c.conn.BeginTx(c.ctx, nil)
	} else {
		c.tx, err = c.db.BeginTx(c.ctx, nil)
	}
	return err
}

func (c *caller) commit(step) error {
	tx := c.tx
	c.tx = nil
	return tx.Commit()
}

func (c *caller) rollback(step) error {
	tx := c.tx
	c.tx = nil
	return tx.Rollback()
}

// querier is what the caller has: a transaction, a connection or the handle.
func (c *caller) querier() interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
} {
	switch {
	case c.tx != nil:
		return c.tx
	case c.conn != nil:
		return c.conn
	}
	return c.db
}

func (st step) text() string {
	switch {
	case st.word != "":
		return st.word
	case st.took > 0:
		return fmt.Sprintf("SELECT pg_sleep(%g)", st.took.Seconds())
	}
	return "SELECT 1"
}

func (c *caller) exec(st step) error {
	_, err := c.querier().ExecContext(c.ctx, st.text())
	return err
}

func (c *caller) query(st step) error {
	rows, err := c.querier().QueryContext(c.ctx, st.text())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

func (c *caller) openRows(step) (err error) {
	c.rows, err = c.querier().QueryContext(c.ctx, "SELECT 1") // closed by a later step
	return err
}

func (c *caller) closeRows(step) error {
	rows := c.rows
	c.rows = nil
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

func (c *caller) ping(step) error {
	if c.conn != nil {
		return c.conn.PingContext(c.ctx)
	}
	return c.db.PingContext(c.ctx)
}

func (c *caller) prepare(step) (err error) {
	c.stmt, err = c.querier().PrepareContext(c.ctx, "SELECT 1")
	return err
}

func (c *caller) runStatement(step) error {
	_, err := c.stmt.ExecContext(c.ctx)
	return err
}

func (c *caller) closeStatement(step) error { return c.stmt.Close() }

// goExec is what programs do that do not wait for the answer. No function of theirs is on the stack then.
func (c *caller) goExec(st step) error {
	go c.db.Exec(st.text()) // ends with the query
	return nil
}

func (c *caller) limit(st step) error {
	c.w.mayHave(st.n)
	return c.w.pool.SetConnectionLimit(st.n)
}

func (c *caller) reset(step) error { c.w.pool.Reset(); return nil }

func (c *caller) shutdown(step) error {
	c.w.closed()
	return lifeguard.Shutdown(c.ctx, c.db)
}

func (c *caller) shutdownPool(step) error {
	c.w.closed()
	return c.w.pool.Shutdown(c.ctx)
}

func (c *caller) close(step) error {
	c.w.closed()
	return c.db.Close()
}
