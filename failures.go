package lifeguard

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// statusCode is what the database calls an error: the SQLSTATE, or the driver's number.
func statusCode(err error) string {
	if code := serverCode(err); code != "" {
		return code
	}
	// modernc.org/sqlite has this method. mattn/go-sqlite3 has a field.
	if e, ok := errorAs[interface {
		error
		Code() int
	}](err); ok {
		return strconv.Itoa(e.Code())
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() == reflect.Struct && strings.HasSuffix(v.Type().PkgPath(), "/go-sqlite3") {
			if n := v.FieldByName("ExtendedCode"); n.IsValid() && n.CanInt() {
				return strconv.FormatInt(n.Int(), 10)
			}
		}
	}
	return ""
}

// errorType says what kind of error it is, in a word that does not change from one to the next.
func errorType(err error, status string) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, ErrPoolTimeout):
		return "pool_timeout"
	case errors.Is(err, ErrPoolClosed):
		return "pool_closed"
	case errors.Is(err, ErrReclaimed):
		return "connection_reclaimed"
	case status != "":
		return status
	case errors.Is(err, driver.ErrBadConn):
		return "bad_connection"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		t := reflect.TypeOf(e)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.PkgPath() {
		case "errors", "fmt", scopeName: // say nothing of what happened
		default:
			return reflect.TypeOf(e).String()
		}
	}
	return semconv.ErrorTypeOther.Value.AsString()
}

// serverCode is the SQLSTATE or the error number in err, "" if it has none.
func serverCode(err error) string {
	// lib/pq and pgx have this method, and so do several others.
	if e, ok := errorAs[interface{ SQLState() string }](err); ok {
		return e.SQLState()
	}
	// go-sql-driver/mysql has a field instead. Its package is not imported for the sake of one number.
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() == reflect.Struct && v.Type().Name() == "MySQLError" {
			if n := v.FieldByName("Number"); n.IsValid() && n.CanUint() {
				return fmt.Sprint(n.Uint())
			}
		}
	}
	return ""
}

// errorAs is errors.As for an interface type.
func errorAs[T any](err error) (T, bool) {
	var target T
	ok := errors.As(err, &target)
	return target, ok
}
