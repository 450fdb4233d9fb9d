package libpq

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// facts says where lib/pq keeps what its API does not show. A path is one of [reflect.Value.FieldByIndex], and nil if the
// field was not found.
type facts struct {
	conn reflect.Type // of its connections, a pointer to a struct

	pid    []int // int: the process number that cancel requests name
	key    []int // []byte: the secret that goes with it
	socket []int // net.Conn: the socket, or what encrypts it
	binary []int // bool: binary_parameters

	mark  reflect.Type // of errors met before anything was sent; nil if lib/pq has no such mark
	cause []int        // error: what such a mark hides

	dials bool // Connect passes its context on to the dialer's DialContext

	lost []string // what was not found, with what is off for that reason
}

// known are the facts of the lib/pq that this program is built with.
var known = sync.OnceValue(lookUp)

// Check reports what of lib/pq is not where it is looked for, and which features are off for that reason. It is nil with
// every version of lib/pq that the tests have seen.
func Check() error {
	if lost := known().lost; len(lost) > 0 {
		return fmt.Errorf("this version of github.com/lib/pq differs from those that lifeguard knows: %s", strings.Join(lost, "; "))
	}
	return nil
}

// BackendPID gives the process number that the server, or a pooler before it, told lib/pq for cancelling queries. It is
// false for other drivers.
func BackendPID(conn driver.Conn) (int64, bool) {
	f := known()
	v, ok := f.field(conn, f.pid)
	if !ok {
		return 0, false
	}
	return v.Int(), true
}

// BinaryParameters says whether lib/pq runs with binary_parameters, which sends a query and its arguments in one piece. It
// asks the connection, because a connector of the application's may know more than dsn. If that does not tell, it asks dsn.
// If neither tells, it is true, and no statement is kept: behind a pooler that loses statements, keeping one is the worse
// mistake.
func BinaryParameters(conn driver.Conn, dsn string) bool {
	if KindOf(conn) != LibPQ {
		return false
	}
	f := known()
	if v, ok := f.field(conn, f.binary); ok {
		return v.Bool()
	}
	cfg, err := pq.NewConfig(dsn)
	return dsn == "" || err != nil || cfg.BinaryParameters
}

// cancelKey gives what the server told lib/pq for cancelling queries. It is false if conn does not speak over socket
// itself: where it encrypts, the key must not travel in the clear.
func cancelKey(conn driver.Conn, socket net.Conn) (pid uint32, key []byte, ok bool) {
	f := known()
	process, okPID := f.field(conn, f.pid)
	secret, okKey := f.field(conn, f.key)
	under, okSocket := f.field(conn, f.socket)
	if !okPID || !okKey || !okSocket || secret.Len() == 0 || !holds(under, socket) {
		return 0, nil, false
	}
	return uint32(process.Int()), bytes.Clone(secret.Bytes()), true
}

// field gives a field of a connection of lib/pq's; false if the connection is another driver's, or the field is lost.
func (f *facts) field(conn driver.Conn, path []int) (reflect.Value, bool) {
	if path == nil || reflect.TypeOf(conn) != f.conn {
		return reflect.Value{}, false
	}
	v := reflect.ValueOf(conn)
	if v.IsNil() {
		return reflect.Value{}, false
	}
	return v.Elem().FieldByIndex(path), true
}

// holds says whether a field of type net.Conn has this very socket in it.
func holds(field reflect.Value, socket net.Conn) bool {
	if field.Kind() != reflect.Interface {
		return false
	}
	a, b := field.Elem(), reflect.ValueOf(socket)
	return a.Kind() == reflect.Pointer && b.Kind() == reflect.Pointer && a.Type() == b.Type() && a.Pointer() == b.Pointer()
}

// What the server at the other end of the specimen says.
const (
	specimenPID = 0x1badcafe
	specimenKey = "\xfe\xed\xfa\xce"

	authenticated = "R\x00\x00\x00\x08\x00\x00\x00\x00"
	passwordAsked = "R\x00\x00\x00\x08\x00\x00\x00\x03"
	backendKey    = "K\x00\x00\x00\x0c\x1b\xad\xca\xfe" + specimenKey
	readyForQuery = "Z\x00\x00\x00\x05I"
)

// lookUp has lib/pq open a connection to nowhere, and looks at it.
func lookUp() *facts {
	f := &facts{}
	func() {
		defer f.guard()
		f.lookAtConn()
		f.lookAtMark()
	}()
	return f
}

// guard forgets everything after a panic. A version of lib/pq may not stand a configuration that no DSN gives.
func (f *facts) guard() {
	if v := recover(); v != nil {
		*f = facts{lost: []string{fmt.Sprintf("connecting in memory panics (%v), and nothing is relied on", v)}}
	}
}

func (f *facts) lookAtConn() {
	d := &specimenDialer{socket: &specimenSocket{says: strings.NewReader(authenticated + backendKey + readyForQuery)}}
	conn, err := d.connect()
	f.dials = d.passed
	if !f.dials {
		f.lose("the context of Connect does not reach DialContext", "the pool cannot reach sockets, and does not cancel queries itself")
	}
	if err != nil {
		f.lose(fmt.Sprintf("connecting in memory fails (%v)", err), "statements are not kept, and the pool does not cancel queries itself")
		return
	}
	f.find(conn, d.socket)
}

// find looks for the fields of conn, which was opened over socket and told the specimen's values.
func (f *facts) find(conn driver.Conn, socket net.Conn) {
	v := reflect.ValueOf(conn)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		f.lose(fmt.Sprintf("a connection is a %T", conn), "statements are not kept, and the pool does not cancel queries itself")
		return
	}
	f.conn = v.Type()
	look := func(path []int, right func(reflect.Value) bool, name, off string) []int {
		if path != nil && right(v.Elem().FieldByIndex(path)) {
			return path
		}
		f.lose("a connection has no "+name, off)
		return nil
	}
	t := v.Elem().Type()
	f.pid = look(pathTo(t, "pid"), func(v reflect.Value) bool { return v.CanInt() && v.Int() == specimenPID },
		"pid", "poolers are not recognised, and the pool does not cancel queries itself")
	f.key = look(pathTo(t, "secretKey"), func(v reflect.Value) bool {
		return v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 && string(v.Bytes()) == specimenKey
	}, "secretKey", "the pool does not cancel queries itself")
	f.socket = look(pathTo(t, "c"), func(v reflect.Value) bool { return holds(v, socket) },
		"c", "the pool does not cancel queries itself")
	f.binary = look(pathTo(t, "cfg", "BinaryParameters"), func(v reflect.Value) bool { return v.Kind() == reflect.Bool && v.Bool() },
		"cfg.BinaryParameters", "statements are not kept where the DSN does not tell")
}

// lookAtMark has lib/pq meet a socket that takes nothing, for the mark that it puts on the error.
func (f *facts) lookAtMark() {
	d := &specimenDialer{socket: &specimenSocket{says: strings.NewReader(passwordAsked), takes: 1}}
	_, err := d.connect()
	if errors.Is(err, errSpecimen) {
		return // no mark, or one that unwraps
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		if path := pathTo(v.Elem().Type(), "Err"); path != nil {
			if inside := v.Elem().FieldByIndex(path); inside.CanInterface() && inside.Interface() == errSpecimen {
				f.mark, f.cause = v.Type(), path
				return
			}
		}
	}
	f.lose(fmt.Sprintf("an error before anything was sent is a %T", err), "what it hides is not retried")
}

func (f *facts) lose(what, off string) { f.lost = append(f.lost, what+" ("+off+")") }

// pathTo gives the path to a field within fields; nil if there is none, or if it leads through a pointer.
func pathTo(t reflect.Type, names ...string) (path []int) {
	for _, name := range names {
		if t.Kind() != reflect.Struct {
			return nil
		}
		field, ok := t.FieldByName(name)
		if !ok || len(field.Index) != 1 {
			return nil
		}
		path, t = append(path, field.Index...), field.Type
	}
	return path
}

var errSpecimen = errors.New("lifeguard: a socket in memory takes no more")

type specimenKeyType struct{}

// specimenDialer opens a socket to nowhere.
type specimenDialer struct {
	socket *specimenSocket
	passed bool // the context of Connect came through
}

func (d *specimenDialer) connect() (driver.Conn, error) {
	c, err := pq.NewConnectorConfig(pq.Config{ // not from a DSN, which would bring in the environment and files
		Host: "localhost", Port: 5432, User: "specimen", Password: "specimen", Database: "specimen",
		SSLMode: pq.SSLModeDisable, BinaryParameters: true,
	})
	if err != nil {
		return nil, err
	}
	c.Dialer(d)
	return c.Connect(context.WithValue(context.Background(), specimenKeyType{}, true))
}

func (d *specimenDialer) Dial(string, string) (net.Conn, error) { return d.socket, nil }

func (d *specimenDialer) DialTimeout(string, string, time.Duration) (net.Conn, error) {
	return d.socket, nil
}

func (d *specimenDialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	d.passed = ctx.Value(specimenKeyType{}) != nil
	return d.socket, nil
}

// specimenSocket says what it was made to say, and takes all writes, or only a few. A method that it lacks panics, which
// lookUp expects.
type specimenSocket struct {
	net.Conn
	says  io.Reader
	takes int // writes until it takes no more; 0 is all
	taken int
}

func (s *specimenSocket) Read(p []byte) (int, error) { return s.says.Read(p) }

func (s *specimenSocket) Write(p []byte) (int, error) {
	if s.taken++; s.takes > 0 && s.taken > s.takes {
		return 0, errSpecimen
	}
	return len(p), nil
}

func (s *specimenSocket) Close() error                { return nil }
func (s *specimenSocket) SetDeadline(time.Time) error { return nil }
