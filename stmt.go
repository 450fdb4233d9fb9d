package lifeguard

import (
	"context"
	"database/sql/driver"
)

// stmt is a statement that a handle prepared on a lease. It stays when the lease gets another session, and is prepared
// there when it is used.
type stmt struct {
	lease    *lease
	text     string
	prepared *prepared   // on the lease's session; nil if it is not, or has been closed
	index    int         // in session.statements
	direct   *directStmt // what it was on the session before, if it stood for no statement of the server's
	err      error       // why it could not be prepared when it was looked at
}

var (
	_ driver.Stmt              = (*stmt)(nil)
	_ driver.StmtExecContext   = (*stmt)(nil)
	_ driver.StmtQueryContext  = (*stmt)(nil)
	_ driver.NamedValueChecker = (*stmt)(nil)
	//lint:ignore SA1019 what a driver has must go on working
	_ driver.ColumnConverter = convertingStmt{}
)

// convertingStmt is stmt for a driver whose statements convert arguments.
type convertingStmt struct{ *stmt }

func (st convertingStmt) ColumnConverter(i int) driver.ValueConverter {
	if st.lease.enterBeside() != nil {
		return driver.DefaultParameterConverter
	}
	returned := false
	defer st.lease.leaveBeside(&returned)
	c := driver.ValueConverter(driver.DefaultParameterConverter)
	if k := st.prepared; k != nil {
		//lint:ignore SA1019 what a driver has must go on working
		c = statementBehind(k.parent).(driver.ColumnConverter).ColumnConverter(i)
	}
	returned = true
	return c
}

// asDriverStmt gives the statement the methods that the wrapped one has.
func (st *stmt) asDriverStmt() driver.Stmt {
	//lint:ignore SA1019 what a driver has must go on working
	if _, ok := statementBehind(st.prepared.parent).(driver.ColumnConverter); ok {
		return convertingStmt{st}
	}
	return st
}

// bind notes what st is on the lease's session, by who owns that.
func (st *stmt) bind(k *prepared) {
	s := st.lease.session
	st.prepared, st.index = k, len(s.statements)
	k.refs++
	s.statements = append(s.statements, st)
}

// ready prepares the statement if the lease has had another session since it was. database/sql looks at a statement
// before it runs it, without a context; that of the checkout, which was for it, is the same.
func (st *stmt) ready() error {
	if st.prepared != nil || st.atHand() {
		return nil
	}
	return st.prepare(st.lease.hold.ctx)
}

// atHand looks for the statement among those that the session keeps.
func (st *stmt) atHand() bool {
	l := st.lease
	if l.enterBeside() != nil {
		return false
	}
	returned := false
	defer l.leaveBeside(&returned)
	if s := l.session; s.intercepted == nil {
		if k := s.atHand(st.text); k != nil {
			st.bind(k)
		} else if st.direct != nil {
			st.bind(s.directAgain(st.direct))
		}
	}
	returned = true
	return st.prepared != nil
}

// prepare prepares the statement on the lease's session.
func (st *stmt) prepare(ctx context.Context) (err error) {
	l := st.lease
	if err := l.start(ctx, opPrepare, st.text); err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	var k *prepared
	if c := l.session.intercepted; c != nil {
		k, err = c.prepareFor(bounded, st.text)
	} else {
		k, err = l.session.prepareFor(bounded, st.text)
	}
	err = b.end(err)
	if err == nil {
		st.bind(k)
	}
	l.finish(ctx, st.text, err)
	returned = true
	return err
}

// Close closes the statement if it still exists. A handle keeps statements of idle connections, and closes them at any
// time: also when the connection was taken back and is in somebody else's hands, whose business must not be disturbed.
func (st *stmt) Close() error {
	l := st.lease
	switch l.state.load() {
	case leaseGone, leaseReclaimed, leaseBare:
		return nil // closed when the session left
	case leaseIdle:
		if !l.state.move(leaseIdle, leaseBusy) {
			return nil
		}
		returned := false
		defer func() {
			if !returned {
				l.survive()
			}
		}()
		err := st.close()
		returned = true
		l.state.move(leaseBusy, leaseIdle)
		l.staysOrStrips()
		return err
	case leaseHeld, leaseLocked:
		if l.enterBeside() != nil {
			return nil
		}
		returned := false
		defer l.leaveBeside(&returned)
		err := st.close()
		returned = true
		return err
	default:
		return st.close()
	}
}

// close is called by the owner of the session.
func (st *stmt) close() error {
	k := st.prepared
	if k == nil {
		return nil
	}
	st.prepared = nil
	s := st.lease.session
	open := s.statements
	last := open[len(open)-1]
	open[st.index] = last
	last.index = st.index
	open[len(open)-1] = nil
	s.statements = open[:len(open)-1]
	return s.release(k)
}

func (st *stmt) NumInput() int {
	if st.err = st.ready(); st.err != nil {
		return -1 // the operation that follows says why
	}
	if st.lease.enterBeside() != nil {
		return -1
	}
	returned := false
	defer st.lease.leaveBeside(&returned)
	n := -1
	if k := st.prepared; k != nil {
		n = k.parent.NumInput()
	}
	returned = true
	return n
}

// CheckNamedValue asks the statement and then the connection, the order in which database/sql looks for a checker.
func (st *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if err := st.lease.enterBeside(); err != nil {
		return err
	}
	returned := false
	defer st.lease.leaveBeside(&returned)
	if k := st.prepared; k != nil && k.checker != nil {
		err := k.checker.CheckNamedValue(v)
		returned = true
		return err
	}
	err := st.lease.CheckNamedValue(v)
	returned = true
	return err
}

// Exec and Query are not called by database/sql, which prefers the methods with a context.

func (st *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return st.ExecContext(context.Background(), ordinal(args))
}

func (st *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return st.QueryContext(context.Background(), ordinal(args))
}

func ordinal(args []driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(args))
	for i, v := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (_ driver.Result, err error) {
	l := st.lease
	k, err := st.start(ctx, opExec)
	if err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	res, err := l.session.execStmt(bounded, k, args)
	err = b.end(err)
	l.finish(ctx, st.text, err)
	returned = true
	return res, err
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (_ driver.Rows, err error) {
	l := st.lease
	k, err := st.start(ctx, opQuery)
	if err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	parent, err := l.session.queryStmt(bounded, k, args)
	var rows driver.Rows
	if err == nil {
		rows = newRows(bounded, l, st.text, parent, k, false, b)
	} else {
		err = b.end(err)
	}
	l.finish(ctx, st.text, err)
	returned = true
	return rows, err
}

// start begins an operation of the statement.
func (st *stmt) start(ctx context.Context, kind operationKind) (*prepared, error) {
	err := st.err
	st.err = nil
	if err == nil {
		err = st.ready()
	}
	if err == nil {
		err = st.lease.start(ctx, kind, st.text)
	}
	if err != nil {
		return nil, err
	}
	return st.prepared, nil
}
