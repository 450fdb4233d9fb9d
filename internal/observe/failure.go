package observe

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// failure is the part of an error that is shown. The zero value stands for none.
type failure struct {
	typ    string // error.type
	status string // db.response.status_code; "" if the database has no name for it
	own    error  // of lifeguard, whose text may be shown; nil for others
}

// isFailure reports whether the operation failed. A caller that gave up is no failure of the database. An attempt that
// ended with driver.ErrBadConn is one, whether database/sql makes another or not.
func isFailure(ctx context.Context, op *Operation) bool {
	switch err := op.Err; {
	case err == nil, errors.Is(err, sql.ErrNoRows), errors.Is(err, io.EOF):
		return false
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled):
		return false
	case op.Kind == Rollback && ctx.Err() != nil && errors.Is(err, driver.ErrBadConn):
		return false // how database/sql is told to close a connection after it rolled back at the end of a context
	}
	return true
}

// errorTypes finds what is shown of errors.
type errorTypes struct {
	status func(error) string
	own    func(error) (typ string, shown error)
}

func (e *errorTypes) failure(err error) failure {
	f := failure{status: e.status(err)}
	if f.typ, f.own = e.own(err); f.typ == "" {
		f.typ, f.own = errorType(err, f.status), nil
	}
	return f
}

// errorType is the kind of an error in a word that does not change from one to the next.
func errorType(err error, status string) string {
	var timeout interface{ Timeout() bool }
	switch {
	case status != "":
		return status
	case errors.Is(err, driver.ErrBadConn):
		return "bad_connection"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		t := reflect.TypeOf(e)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		pkg := t.PkgPath()
		if pkg == "errors" || pkg == "fmt" || pkg == scope || strings.HasPrefix(pkg, scope+"/internal/") {
			continue // its types say nothing of the cause
		}
		return reflect.TypeOf(e).String()
	}
	return semconv.ErrorTypeOther.Value.AsString()
}

// attributes appends the attributes of a failure, in spans and in metrics.
func (f failure) attributes(to []attribute.KeyValue) []attribute.KeyValue {
	if f.typ == "" {
		return to
	}
	to = append(to, semconv.ErrorTypeKey.String(f.typ))
	if f.status != "" {
		to = append(to, semconv.DBResponseStatusCode(f.status))
	}
	return to
}

// description is the status of a span: the text of lifeguard's own errors, the type of others.
func (f failure) description() string {
	if f.own != nil {
		return f.own.Error()
	}
	return f.typ
}
