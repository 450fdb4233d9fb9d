package lifeguard

import (
	"database/sql/driver"
	"net"
	"reflect"
	"slices"
)

// cancelProcess gives the process number that lib/pq was told for cancelling queries. It does not show it; if a later
// version has it under another name, poolers are not recognised.
func cancelProcess(conn driver.Conn) (int64, bool) {
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

// cancelKey gives what PostgreSQL told lib/pq for cancelling queries on a connection over socket; false if that is not
// known, or if the connection is not what goes over socket as it is, but encrypted.
func cancelKey(conn driver.Conn, socket net.Conn) (pid uint32, key []byte, ok bool) {
	process, ok := cancelProcess(conn)
	if !ok || kindOf(conn) != libPQ {
		return 0, nil, false
	}
	v := reflect.Indirect(reflect.ValueOf(conn))
	under, secret := v.FieldByName("c"), v.FieldByName("secretKey")
	if under.Kind() != reflect.Interface || secret.Kind() != reflect.Slice || secret.Type().Elem().Kind() != reflect.Uint8 {
		return 0, nil, false
	}
	opened := reflect.ValueOf(socket)
	if u := under.Elem(); u.Kind() != reflect.Pointer || opened.Kind() != reflect.Pointer || u.Pointer() != opened.Pointer() {
		return 0, nil, false
	}
	return uint32(process), slices.Clone(secret.Bytes()), secret.Len() > 0
}

// binaryParameters says whether lib/pq was told to use binary_parameters, with which a query and its arguments go to the
// server in one piece. It may have been told in any syntax, or by the connector that OpenDB was given, so it is best asked.
func binaryParameters(conn driver.Conn, p *Pool) bool {
	if v := reflect.Indirect(reflect.ValueOf(conn)); v.Kind() == reflect.Struct {
		if cfg := v.FieldByName("cfg"); cfg.IsValid() && cfg.Kind() == reflect.Struct {
			if b := cfg.FieldByName("BinaryParameters"); b.IsValid() && b.Kind() == reflect.Bool {
				return b.Bool()
			}
		}
	}
	return p.binaryParameters
}

// serverTransaction says whether the server told lib/pq, at the end of the last operation, that the connection is in a
// transaction, which no reading of statements can know for certain: think of COMMIT AND CHAIN, or of a procedure. lib/pq
// does not show that either; without it, what begins and ends transactions is followed by its text.
func serverTransaction(conn driver.Conn) (inTx, known bool) {
	v := reflect.Indirect(reflect.ValueOf(conn))
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != "github.com/lib/pq" {
		return false, false
	}
	status := v.FieldByName("txnStatus")
	if !status.IsValid() || !status.CanUint() {
		return false, false
	}
	switch status.Uint() {
	case 'I':
		return false, true
	case 'T', 'E':
		return true, true
	}
	return false, false
}
