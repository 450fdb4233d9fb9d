package lifeguard

import (
	"context"
	"database/sql/driver"
)

// stmt is a statement that a handle prepared on a lease.
type stmt struct {
	lease    *lease
	prepared *prepared
	index    int // in session.statements
	closed   bool
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
	//lint:ignore SA1019 what a driver has must go on working
	c := statementBehind(st.prepared.parent).(driver.ColumnConverter).ColumnConverter(i)
	returned = true
	return c
}

func newStmt(l *lease, p *prepared) driver.Stmt {
	s := l.session
	st := &stmt{lease: l, prepared: p, index: len(s.statements)}
	p.refs++
	s.statements = append(s.statements, st)
	//lint:ignore SA1019 what a driver has must go on working
	if _, ok := statementBehind(p.parent).(driver.ColumnConverter); ok {
		return convertingStmt{st}
	}
	return st
}

// Close closes the statement if it still exists. A handle keeps statements of idle connections, and closes them at any
// time: also when the connection was taken back and is in somebody else's hands, whose business must not be disturbed.
func (st *stmt) Close() error {
	l := st.lease
	switch l.state.load() {
	case leaseGone, leaseReclaimed:
		return nil // closed when the lease ended
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
		if !l.putBack(leaseBusy, leaseGone) {
			l.giveUp(notHeld)
		}
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
	if st.closed {
		return nil
	}
	st.closed = true
	open := st.lease.session.statements
	last := open[len(open)-1]
	open[st.index] = last
	last.index = st.index
	open[len(open)-1] = nil
	st.lease.session.statements = open[:len(open)-1]
	return st.lease.session.release(st.prepared)
}

func (st *stmt) NumInput() int {
	if st.lease.enterBeside() != nil {
		return -1 // the operation that follows says why
	}
	returned := false
	defer st.lease.leaveBeside(&returned)
	n := st.prepared.parent.NumInput()
	returned = true
	return n
}

// CheckNamedValue asks the statement and then the connection, the order in which database/sql looks for a checker.
func (st *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if st.prepared.checker != nil {
		if err := st.lease.enterBeside(); err != nil {
			return err
		}
		returned := false
		defer st.lease.leaveBeside(&returned)
		err := st.prepared.checker.CheckNamedValue(v)
		returned = true
		return err
	}
	return st.lease.CheckNamedValue(v)
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
	l, p := st.lease, st.prepared
	if err := l.start(ctx, opExec, p.text); err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	res, err := l.session.execStmt(bounded, p, args)
	err = b.end(err)
	l.finish(ctx, p.text, err)
	returned = true
	return res, err
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (_ driver.Rows, err error) {
	l, p := st.lease, st.prepared
	if err := l.start(ctx, opQuery, p.text); err != nil {
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			l.survive()
		}
	}()
	bounded, b := l.session.bound(ctx)
	parent, err := l.session.queryStmt(bounded, p, args)
	var rows driver.Rows
	if err == nil {
		rows = newRows(bounded, l, p.text, parent, p, false, b)
	} else {
		err = b.end(err)
	}
	l.finish(ctx, p.text, err)
	returned = true
	return rows, err
}
