package libpq

import (
	"database/sql/driver"
	"reflect"
	"strings"
)

// Kind tells the drivers apart that are treated specially.
type Kind uint8

// The drivers, Other being all that are not known.
const (
	Other Kind = iota
	LibPQ
	GoMySQL
	PgxStdlib
)

// KindOf tells a driver by the package of its connection's type.
func KindOf(conn driver.Conn) Kind {
	switch path := packageOf(conn); {
	case path == "github.com/lib/pq":
		return LibPQ
	case path == "github.com/go-sql-driver/mysql":
		return GoMySQL
	case strings.HasPrefix(path, "github.com/jackc/pgx/") && strings.HasSuffix(path, "/stdlib"):
		return PgxStdlib
	}
	return Other
}

// packageOf gives the import path of the type of v, "" for nil.
func packageOf(v any) string {
	t := reflect.TypeOf(v)
	if t == nil {
		return ""
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}
