package libpq

import (
	"database/sql/driver"
	"net"
	"reflect"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/pgtest"
)

// TestCheck is the canary: it fails when a new version of lib/pq has moved something.
func TestCheck(t *testing.T) {
	require.NoError(t, Check())
	f := known()
	assert.NotEmpty(t, f.pid)
	assert.NotEmpty(t, f.key)
	assert.NotEmpty(t, f.socket)
	assert.NotEmpty(t, f.binary)
	assert.True(t, f.dials)
	assert.Equal(t, "*pq.conn", f.conn.String())
	assert.Equal(t, "*pq.safeRetryError", f.mark.String())
}

// What was found on a connection to nowhere is so on one to a server.
func TestFactsOnAServer(t *testing.T) {
	conn, socket := mustDial(t, pgtest.DSN(t))
	served, err := run(t.Context(), conn, "SELECT pg_backend_pid()")
	require.NoError(t, err)
	pid, ok := BackendPID(conn)
	assert.True(t, ok)
	assert.Equal(t, served, pid)

	told, key, ok := cancelKey(conn, socket)
	assert.True(t, ok)
	assert.Equal(t, served, int64(told))
	assert.Len(t, key, 4, "with version 3.0 of the protocol")

	_, _, ok = cancelKey(conn, &net.TCPConn{})
	assert.False(t, ok, "another socket")
	_, _, ok = cancelKey(conn, otherSocket{socket})
	assert.False(t, ok, "a socket of another type")
}

type otherSocket struct{ net.Conn }

func TestBinaryParameters(t *testing.T) {
	dsn := pgtest.DSN(t)
	for _, c := range []struct {
		value     string
		pgBouncer bool
		want      bool
	}{{"", false, false}, {"yes", false, true}, {"no", false, false}, {"", true, true}, {"yes", true, true}, {"no", true, false}} {
		conn, _, err := dial(t.Context(), with(t, dsn, "binary_parameters", c.value), SocketOptions{}, c.pgBouncer)
		require.NoError(t, err)
		assert.Equal(t, c.want, BinaryParameters(conn, "what the connection says counts"), "%+v", c)
		require.NoError(t, conn.Close())
	}
	assert.False(t, BinaryParameters(otherConn{}, "binary_parameters=yes"), "not of lib/pq")
}

// In neither form of a DSN can a value be taken for the parameter.
func TestBinaryParametersSet(t *testing.T) {
	for dsn, want := range map[string]bool{
		"postgres://h/d?binary_parameters=no": true, "postgres://h/d?a=b&binary_parameters=yes": true,
		"host=h binary_parameters = no": true, "binary_parameters=no": true, "host=h\tbinary_parameters=no": true,
		"postgres://u:binary_parameters@h/d": false, "postgres://h/d?application_name=binary_parameters": false,
		"host=h password=binary_parameters": false, "postgres://h/d?not_binary_parameters=yes": false, "": false,
	} {
		assert.Equal(t, want, binaryParametersSet.MatchString(dsn), dsn)
	}
}

// TestFailsClosed has nothing of lib/pq where it is looked for.
func TestFailsClosed(t *testing.T) {
	dsn := pgtest.DSN(t)
	known := known()
	for name, f := range map[string]*facts{
		"nothing is known":   {},
		"another connection": {conn: reflect.TypeFor[*otherConn](), pid: known.pid, key: known.key, socket: known.socket, binary: known.binary},
	} {
		t.Run(name, func(t *testing.T) {
			libPQ(t, f)
			conn, socket := mustDial(t, dsn)
			assert.Nil(t, socket, "it is lib/pq that opens it")
			_, ok := BackendPID(conn)
			assert.False(t, ok)
			assert.True(t, BinaryParameters(conn, ""), "the safe side")
			assert.True(t, BinaryParameters(conn, "no=dsn of='lib/pq"), "the safe side")
			assert.True(t, BinaryParameters(conn, with(t, dsn, "binary_parameters", "yes")))
			assert.False(t, BinaryParameters(conn, dsn), "the DSN tells")
			value, err := run(t.Context(), conn, "SELECT 1")
			require.NoError(t, err)
			assert.EqualValues(t, 1, value)
		})
	}
	conn, socket := mustDial(t, dsn)
	for name, f := range map[string]facts{
		"pid":       {conn: known.conn, key: known.key, socket: known.socket},
		"secretKey": {conn: known.conn, pid: known.pid, socket: known.socket},
		"c":         {conn: known.conn, pid: known.pid, key: known.key},
	} {
		t.Run("without "+name, func(t *testing.T) {
			libPQ(t, &f)
			assert.Nil(t, NewCanceller(conn, socket, SocketOptions{}))
		})
	}
}

// The connections of versions of lib/pq that there may be one day.
type (
	sameConn struct {
		driver.Conn
		pid       int
		secretKey []byte
		c         net.Conn
		cfg       pq.Config
	}
	renamedConn struct {
		driver.Conn
		processID int
		key       []byte
		socket    net.Conn
		config    pq.Config
	}
	retypedConn struct {
		driver.Conn
		pid       string
		secretKey uint32
		c         *specimenSocket
		cfg       map[string]string
	}
	pointingConn struct {
		driver.Conn
		pid       *int
		secretKey [4]byte
		c         any
		cfg       *pq.Config
	}
)

func TestFindOnOtherVersions(t *testing.T) {
	socket, pid := &specimenSocket{}, specimenPID
	same := &sameConn{pid: specimenPID, secretKey: []byte(specimenKey), c: socket, cfg: pq.Config{BinaryParameters: true}}
	for _, c := range []struct {
		name string
		conn driver.Conn
		lost int
	}{
		{"the same", same, 0},
		{"other names", &renamedConn{processID: pid, key: same.secretKey, socket: socket, config: same.cfg}, 4},
		{"other types", &retypedConn{pid: "1", secretKey: 1, c: socket, cfg: map[string]string{"BinaryParameters": "yes"}}, 4},
		// What is in c may be a socket, whatever its declared type is.
		{"pointers", &pointingConn{pid: &pid, secretKey: [4]byte([]byte(specimenKey)), c: socket, cfg: &same.cfg}, 3},
		{"other meanings", &sameConn{pid: pid + 1, secretKey: []byte("none"), c: &specimenSocket{}}, 4},
		{"nothing in it", &sameConn{}, 4},
		{"no pointer", *same, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &facts{}
			f.find(c.conn, socket)
			assert.Len(t, f.lost, c.lost, "%v", f.lost)
			libPQ(t, f)
			if c.lost == 0 {
				assert.NoError(t, Check())
			} else {
				assert.ErrorContains(t, Check(), "github.com/lib/pq")
			}
			_, ok := BackendPID(c.conn)
			assert.Equal(t, f.pid != nil, ok)
		})
	}
}

// A lib/pq that cannot stand the specimen, and panics, is one of which nothing is known.
func TestLookUpSurvivesPanics(t *testing.T) {
	f := &facts{}
	func() {
		defer f.guard()
		f.pid = []int{0}
		panic("unreachable")
	}()
	assert.Equal(t, &facts{lost: f.lost}, f)
	assert.Contains(t, f.lost[0], "unreachable")
}

func TestLookUpCostsNothingLater(t *testing.T) {
	conn, _ := mustDial(t, pgtest.DSN(t))
	_ = Check()
	assert.Zero(t, testing.AllocsPerRun(100, func() { BackendPID(conn) }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { BinaryParameters(conn, "") }))
}
