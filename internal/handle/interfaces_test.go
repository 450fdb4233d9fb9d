package handle

import (
	"database/sql/driver"
	"io"
)

// What database/sql finds here.
var (
	_ driver.Connector = (*Connector)(nil)
	_ io.Closer        = (*Connector)(nil)

	_ driver.Conn               = (*lease)(nil)
	_ driver.ConnPrepareContext = (*lease)(nil)
	_ driver.ConnBeginTx        = (*lease)(nil)
	_ driver.Pinger             = (*lease)(nil)
	_ driver.NamedValueChecker  = (*lease)(nil)
	_ driver.SessionResetter    = (*lease)(nil)
	_ driver.Validator          = (*lease)(nil)
	_ driver.ExecerContext      = execConn{}
	_ driver.QueryerContext     = queryConn{}
	_ driver.ExecerContext      = execQueryConn{}
	_ driver.QueryerContext     = execQueryConn{}
	// Not driver.ColumnConverter, driver.Execer and driver.Queryer: the first belongs to statements, the others are what
	// database/sql falls back to.

	_ driver.Stmt              = (*stmt)(nil)
	_ driver.StmtExecContext   = (*stmt)(nil)
	_ driver.StmtQueryContext  = (*stmt)(nil)
	_ driver.NamedValueChecker = (*stmt)(nil)
	//lint:ignore SA1019 what a driver has must go on working
	_ driver.ColumnConverter = convertingStmt{}

	_ driver.Rows                           = (*rows)(nil)
	_ driver.RowsNextResultSet              = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
)
