package drivertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-lifeguard/lifeguard"
)

func (s *script) transactions() {
	s.exec("CREATE TABLE kept (id INT PRIMARY KEY, name VARCHAR(50))")
	insert := "INSERT INTO kept VALUES (" + s.mark(1) + ", " + s.mark(2) + ")"
	for level := sql.LevelDefault; level <= sql.LevelLinearizable+1; level++ {
		for i, readOnly := range []bool{false, true} {
			what := fmt.Sprintf("%v, read-only %t", level, readOnly)
			tx, err := s.BeginTx(s.ctx, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			s.failed(what, err)
			if err != nil {
				continue
			}
			if s.level != "" {
				rows, err := tx.Query(s.level)
				s.rows(what, rows, err)
			}
			_, err = tx.Exec(insert, 10*int(level)+i, what)
			s.failed(what+": insert", err)
			s.failed(what+": commit", tx.Commit())
			s.failed(what+": commit again", tx.Commit())
			s.failed(what+": rollback after", tx.Rollback())
		}
	}
	s.query("SELECT * FROM kept ORDER BY id")
	tx, err := s.BeginTx(s.ctx, nil)
	s.must(err)
	_, err = tx.Exec("DELETE FROM kept")
	s.must(err)
	s.failed("rollback", tx.Rollback())
	s.query("SELECT COUNT(*) FROM kept")

	tx, err = s.BeginTx(s.ctx, nil)
	s.must(err)
	for i, statement := range []string{
		"INSERT INTO kept VALUES (900, 'kept')", "SAVEPOINT a", "INSERT INTO kept VALUES (901, 'lost')", "ROLLBACK TO SAVEPOINT a",
		"INSERT INTO kept VALUES (902, 'kept')", "RELEASE SAVEPOINT a", "INSERT INTO kept VALUES (900, 'twice')",
	} {
		_, err := tx.Exec(statement)
		s.failed(fmt.Sprint(i, " ", statement), err)
	}
	s.failed("commit", tx.Commit())
	s.query("SELECT * FROM kept WHERE id >= 900 ORDER BY id")
}

func (s *script) rollbackByContext() {
	s.exec("CREATE TABLE kept (id INT PRIMARY KEY)")
	for i := range 6 {
		ctx, cancel := context.WithCancel(s.ctx)
		tx, err := s.BeginTx(ctx, nil)
		s.must(err)
		_, err = tx.ExecContext(s.ctx, "INSERT INTO kept VALUES (1)")
		s.must(err)
		if i%2 == 0 {
			go cancel()
		} else {
			cancel()
		}
		eventually(s.t, "the transaction ends", func() bool {
			_, err := tx.ExecContext(s.ctx, "SELECT 1")
			return errors.Is(err, sql.ErrTxDone)
		})
		err = tx.Commit()
		s.note("commit refused: %t", errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrTxDone))
		s.query("SELECT COUNT(*) FROM kept")
		cancel()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.BeginTx(ctx, nil)
	s.failed("context over before", err)
}

// rollbackByContextOnConn has a transaction on a sql.Conn ended by its context. database/sql gives up the connection of a
// driver that can not both reset a connection and say whether it is valid.
func (s *script) rollbackByContextOnConn() {
	conn, err := s.Conn(s.ctx)
	s.must(err)
	defer conn.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	tx, err := conn.BeginTx(ctx, nil)
	s.must(err)
	cancel()
	eventually(s.t, "the transaction ends", func() bool {
		_, err := tx.ExecContext(s.ctx, "SELECT 1")
		return errors.Is(err, sql.ErrTxDone)
	})
	if !s.stays {
		eventually(s.t, "the connection is closed", func() bool { return s.open() == 0 })
	}
	_, err = conn.ExecContext(s.ctx, "SELECT 1")
	s.failed("on the conn", err)
	_ = conn.Close() // not compared: through lifeguard a sql.Conn whose connection is gone has still to be closed
	s.query("SELECT 'alive'")
}

// open is how many connections to the database there are.
func (s *script) open() int {
	if pool, ok := lifeguard.PoolOf(s.DB); ok {
		return pool.Stats().Open
	}
	return s.Stats().OpenConnections
}

// rollbackAfterCancel rolls back what its context has ended, before database/sql does. The answer is the driver's.
func (s *script) rollbackAfterCancel() {
	for _, touched := range []bool{false, true} {
		var err error
		eventually(s.t, "the caller is faster than database/sql", func() bool {
			ctx, cancel := context.WithCancel(s.ctx)
			defer cancel()
			tx, beginErr := s.BeginTx(ctx, nil)
			s.must(beginErr)
			if touched {
				_, execErr := tx.ExecContext(s.ctx, "SELECT 1")
				s.must(execErr)
			}
			cancel()
			err = tx.Rollback()
			return !errors.Is(err, sql.ErrTxDone)
		})
		s.failed(fmt.Sprintf("rollback, something was done: %t", touched), err)
		s.query("SELECT 'alive'")
	}
}
