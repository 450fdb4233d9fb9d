package recorder

import (
	"context"
	"database/sql/driver"
	"fmt"
	"reflect"
)

type recordedDriver struct{ recorder *Recorder }

func (d *recordedDriver) Open(dsn string) (driver.Conn, error) {
	if err := d.recorder.record(Call{Method: "Driver.Open", Args: fmt.Sprintf("%q", dsn)}, false); err != nil {
		return nil, err
	}
	return d.recorder.connect(), nil
}

func (d *recordedDriver) OpenConnector(dsn string) (driver.Connector, error) {
	if err := d.recorder.record(Call{Method: "Driver.OpenConnector", Args: fmt.Sprintf("%q", dsn)}, false); err != nil {
		return nil, err
	}
	return d.recorder.Connector(), nil
}

type recordedConnector struct{ recorder *Recorder }

func (c *recordedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	// Only the tag of this ctx is recorded: whether a dial ends with the call
	// that asked for it is the business of the pool.
	tag, _ := ctx.Value(tagKey{}).(string)
	if err := c.recorder.record(Call{Method: "Connector.Connect", Args: "ctx(" + tag + ")"}, false); err != nil {
		return nil, err
	}
	return c.recorder.connect(), nil
}

func (c *recordedConnector) Driver() driver.Driver { return c.recorder.Driver() }

func (c *recordedConnector) Close() error {
	return c.recorder.record(Call{Method: "Connector.Close"}, false)
}

func (r *Recorder) connect() driver.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &recordedConn{recorder: r, id: len(r.conns) + 1}
	c.value = connSets[r.sets.Conn](c)
	r.conns = append(r.conns, c)
	return c.value
}

type recordedConn struct {
	recorder *Recorder
	id       int
	value    driver.Conn // what was handed out for it
	closed   bool        // guarded by recorder.mu
}

func (c *recordedConn) record(method, query, args string) error {
	c.recorder.mu.Lock()
	closed := c.closed
	c.recorder.mu.Unlock()
	return c.recorder.record(Call{Conn: c.id, Method: method, Query: query, Args: args}, closed)
}

func (c *recordedConn) Prepare(query string) (driver.Stmt, error) {
	if err := c.record("Prepare", query, ""); err != nil {
		return nil, err
	}
	return c.stmt(query), nil
}

func (c *recordedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.record("PrepareContext", query, describeContext(ctx)); err != nil {
		return nil, err
	}
	return c.stmt(query), nil
}

func (c *recordedConn) Close() error {
	err := c.record("Close", "", "")
	c.recorder.mu.Lock()
	defer c.recorder.mu.Unlock()
	c.closed = true
	return err
}

func (c *recordedConn) Begin() (driver.Tx, error) {
	if err := c.record("Begin", "", ""); err != nil {
		return nil, err
	}
	return &recordedTx{conn: c}, nil
}

func (c *recordedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.record("BeginTx", "", fmt.Sprintf("%s %+v", describeContext(ctx), opts)); err != nil {
		return nil, err
	}
	return &recordedTx{conn: c}, nil
}

func (c *recordedConn) Ping(ctx context.Context) error {
	return c.record("Ping", "", describeContext(ctx))
}

func (c *recordedConn) Exec(query string, args []driver.Value) (driver.Result, error) {
	if err := c.record("Exec", query, describeValues(args)); err != nil {
		return nil, err
	}
	return recordedResult{c, query}, nil
}

func (c *recordedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.record("ExecContext", query, describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return recordedResult{c, query}, nil
}

func (c *recordedConn) Query(query string, args []driver.Value) (driver.Rows, error) {
	if err := c.record("Query", query, describeValues(args)); err != nil {
		return nil, err
	}
	return c.rows(query), nil
}

func (c *recordedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.record("QueryContext", query, describeContext(ctx)+" "+describeNamed(args...)); err != nil {
		return nil, err
	}
	return c.rows(query), nil
}

func (c *recordedConn) ResetSession(ctx context.Context) error {
	return c.record("ResetSession", "", describeContext(ctx))
}

func (c *recordedConn) IsValid() bool { return c.record("IsValid", "", "") == nil }

func (c *recordedConn) CheckNamedValue(nv *driver.NamedValue) error {
	return c.check("CheckNamedValue", "", nv)
}

func (c *recordedConn) check(method, query string, nv *driver.NamedValue) error {
	if err := c.record(method, query, describeNamed(*nv)); err != nil {
		return err
	}
	if c.recorder.script.CheckNamedValue == nil {
		return driver.ErrSkip
	}
	return c.recorder.script.CheckNamedValue(nv)
}

func (c *recordedConn) stmt(query string) driver.Stmt {
	return stmtSets[c.recorder.sets.Stmt](&recordedStmt{conn: c, query: query})
}

func (c *recordedConn) rows(query string) driver.Rows {
	sets := []ResultSet{{
		Columns: []Column{{Name: "n", DatabaseType: "INT8", ScanType: reflect.TypeFor[int64]()}},
		Rows:    [][]driver.Value{{int64(1)}},
	}}
	if c.recorder.script.Results != nil {
		sets = c.recorder.script.Results(query)
	}
	return rowsSets[c.recorder.sets.Rows](&recordedRows{conn: c, query: query, sets: sets})
}
