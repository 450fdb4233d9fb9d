// Package libpq holds what is known of drivers beyond their APIs.
package libpq

import (
	"database/sql/driver"
	"errors"
	"reflect"
	"strconv"
	"strings"
)

// Kind is a driver whose ways are known.
type Kind uint8

const (
	Other Kind = iota
	LibPQ
	GoMySQL
	PgxStdlib
)

// KindOf tells a driver by the package of its connection's type.
func KindOf(conn driver.Conn) Kind {
	t := reflect.TypeOf(conn)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch path := t.PkgPath(); {
	case path == "github.com/lib/pq":
		return LibPQ
	case path == "github.com/go-sql-driver/mysql":
		return GoMySQL
	case strings.HasPrefix(path, "github.com/jackc/pgx/") && strings.HasSuffix(path, "/stdlib"):
		return PgxStdlib
	}
	return Other
}

// Code gives the SQLSTATE or the error number in err, "" if it has none.
func Code(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() == reflect.Struct && v.Type().Name() == "MySQLError" {
			if n := v.FieldByName("Number"); n.IsValid() && n.CanUint() {
				return strconv.FormatUint(n.Uint(), 10)
			}
		}
	}
	return ""
}

// BackendPID gives the process number that lib/pq was told for cancelling queries.
func BackendPID(conn driver.Conn) (int64, bool) {
	v := reflect.Indirect(reflect.ValueOf(conn))
	if v.Kind() != reflect.Struct {
		return 0, false
	}
	pid := v.FieldByName("pid")
	if !pid.IsValid() || !pid.CanInt() {
		return 0, false
	}
	return pid.Int(), true
}
