package callsite

import (
	"runtime"
	"slices"
	"strings"
)

// OwnedByDBQuery reports whether the stack goes through one of the methods of [database/sql.DB] that take a connection
// for the rows of one query alone. The rows of such a query are the only owner of their connection.
//
// A connection of rows that were lost is taken back only with this proof. On a connection of a [database/sql.Conn] or
// [database/sql.Tx] somebody else may still count on a lock or a setting. A stack that was cut short or not captured is no
// proof, and the connection is only reported.
func OwnedByDBQuery(pcs []uintptr) bool {
	return Through(pcs, "database/sql.(*DB).Query", "database/sql.(*DB).QueryContext",
		"database/sql.(*DB).QueryRow", "database/sql.(*DB).QueryRowContext")
}

// OwnedByDB reports whether the stack of a checkout shows that database/sql took the connection for one of some methods of
// [database/sql.DB]: ExecContext, QueryContext, PingContext, which return it at their end, or BeginTx, at that of the
// transaction. Only handles behind a library that hides the return need this proof. The innermost method counts: further
// out may stand another handle, whose driver keeps the connection.
func OwnedByDB(pcs []uintptr, methods ...string) bool {
	if len(pcs) == 0 {
		return false
	}
	frames := runtime.CallersFrames(pcs)
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		switch method, _ := strings.CutPrefix(f.Function, "database/sql.(*DB)."); method {
		case "ExecContext", "QueryContext", "BeginTx", "PingContext":
			return slices.Contains(methods, method)
		case "Conn", "PrepareContext":
			return false
		}
		for _, other := range []string{"database/sql.(*Conn).", "database/sql.(*Tx).", "database/sql.(*Stmt)."} {
			if strings.HasPrefix(f.Function, other) {
				return false
			}
		}
	}
	return false
}

// Through reports whether the stack goes through one of the functions.
func Through(pcs []uintptr, functions ...string) bool {
	if len(pcs) == 0 {
		return false
	}
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if slices.Contains(functions, f.Function) {
			return true
		}
		if !more {
			return false
		}
	}
}
