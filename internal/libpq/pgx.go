package libpq

import (
	"database/sql/driver"
	"net"
	"reflect"
)

// PgxConn is what a connection of pgx's says of itself.
type PgxConn interface {
	Conn() net.Conn // the socket, or what encrypts it
	PID() uint32    // of the server's process
	IsClosed() bool // for the goroutine that uses the connection
}

// PgxOf finds pgx's own connection behind that of its database/sql driver; nil for other drivers, and if a method is
// not there. It calls exported methods by name: their results have types of pgx, which the library does not import.
func PgxOf(conn driver.Conn) PgxConn {
	if KindOf(conn) != PgxStdlib {
		return nil
	}
	inner := resultOf(reflect.ValueOf(conn).MethodByName("Conn"))
	if !inner.IsValid() {
		return nil
	}
	outcome := resultOf(inner.MethodByName("PgConn"))
	if !outcome.IsValid() {
		return nil
	}
	own, _ := outcome.Interface().(PgxConn)
	if own == nil || own.Conn() == nil {
		return nil
	}
	return own
}

// resultOf calls a method that takes nothing and gives a pointer; not valid if there is no such method.
func resultOf(method reflect.Value) reflect.Value {
	if !method.IsValid() || method.Type().NumIn() != 0 || method.Type().NumOut() != 1 {
		return reflect.Value{}
	}
	result := method.Call(nil)[0]
	if result.Kind() != reflect.Pointer || result.IsNil() {
		return reflect.Value{}
	}
	return result
}
