package callsite

import (
	"runtime"
	"slices"
)

// OwnedByDBQuery reports whether the stack goes through one of the methods of [database/sql.DB] that take a connection
// for the rows of one query alone. The rows of such a query are the only owner of their connection.
//
// This is the one decision that a stack may take: whether the connection of rows that were lost is taken back. On a
// connection of a [database/sql.Conn] or [database/sql.Tx] somebody else may still count on a lock or a setting. A stack
// that was cut short or not captured is no proof, and the connection is only reported.
func OwnedByDBQuery(pcs []uintptr) bool {
	return Through(pcs, "database/sql.(*DB).Query", "database/sql.(*DB).QueryContext",
		"database/sql.(*DB).QueryRow", "database/sql.(*DB).QueryRowContext")
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
