package session_test

import (
	"database/sql"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/go-lifeguard/lifeguard/internal/faultproxy"
	"github.com/go-lifeguard/lifeguard/internal/pooltest"
)

// A serverFault is something that happens to the network or the server.
type serverFault struct {
	name   string
	length time.Duration // in TestFaults
	rare   bool          // takes the whole server down: a storm has it less often

	// strike does it, for about length, in the test's goroutine: see basin.strike. When it has returned, the network is
	// healed.
	strike func(b *basin, length time.Duration)

	// params are the pool's in TestFaults, where they differ from faultParams.
	params []string

	// causes matches what errors may name, during the fault and in the moment after.
	causes string
}

var faultParams = []string{"pool_timeout=1", "socket_timeout=1", "connect_timeout=2"}

const (
	// broken is what the end of a connection looks like, depending on where the driver meets it. 23505 is the second
	// execution of an INSERT: lib/pq answers with driver.ErrBadConn, which makes database/sql repeat a statement, also
	// when the connection ended after the statement had been sent.
	broken = "(pool timeout: )?(bad connection|connection reset|broken pipe|end of connection)|server says 23505"

	full     = "pool timeout: full" // of calls that take long
	unheard  = "socket_timeout|pool timeout: ping not answered"
	noDial   = "pool timeout: (dial given up|dial not finished|i/o timeout)"
	shutdown = "server says 57P0[123]|(pool timeout: )?server says 57P03"
)

var serverFaults = []serverFault{
	{
		name: "replies cut by RST", length: 700 * time.Millisecond, causes: broken,
		strike: func(b *basin, length time.Duration) { b.cutReplies(length, faultproxy.RST) },
	}, {
		name: "replies cut by FIN", length: 700 * time.Millisecond, causes: broken, params: []string{"statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) { b.cutReplies(length, faultproxy.FIN) },
	}, {
		name: "open connections are half-open", length: 1700 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		name: "replies vanish", length: 1700 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		params: []string{"statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) {
			b.proxy.Lose(faultproxy.ToClient)
			b.pause(length)
		},
	}, {
		name: "everything vanishes", length: 2200 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Unreachable)
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		// Without connect_timeout lib/pq does not bound what follows the opening of the socket.
		name: "nothing is answered", length: 2200 * time.Millisecond,
		causes: unheard + "|" + full + "|" + noDial,
		params: []string{"pool_timeout=1", "socket_timeout=1", "statement_cache_size=0"},
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Silent)
			b.proxy.Lose(faultproxy.Both)
			b.pause(length)
		},
	}, {
		name: "200ms of latency, and jitter", length: 1600 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		params: []string{"pool_timeout=3", "socket_timeout=2", "connect_timeout=4"},
		strike: func(b *basin, length time.Duration) {
			b.proxy.SetShape(faultproxy.Both, faultproxy.Shape{Delay: 75 * time.Millisecond, Jitter: 50 * time.Millisecond})
			b.pause(length)
		},
	}, {
		name: "1 kB/s", length: 1600 * time.Millisecond, causes: unheard + "|" + full + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.large.Store(true)
			defer b.large.Store(false)
			b.proxy.SetShape(faultproxy.Both, faultproxy.Shape{BytesPerSecond: 1000})
			b.pause(length)
		},
	}, {
		name: "dials are refused", length: 1300 * time.Millisecond, causes: broken + "|pool timeout: (connection refused|dial not finished)",
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Refuse)
			b.proxy.Cut(faultproxy.RST)
			b.pause(length)
		},
	}, {
		name: "dials hang", length: 1500 * time.Millisecond, causes: broken + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Unreachable)
			b.proxy.Cut(faultproxy.RST)
			b.pause(length)
		},
	}, {
		name: "dials are accepted and not answered", length: 1500 * time.Millisecond, causes: broken + "|" + noDial,
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Silent)
			b.proxy.Cut(faultproxy.FIN)
			b.pause(length)
		},
	}, {
		name: "the server answers garbage", length: 1300 * time.Millisecond,
		causes: broken + "|" + unheard + "|" + full + "|" + noDial + "|(pool timeout: )?(protocol|end of connection|connection reset|" +
			"driver panicked|server says .*)|driver panicked",
		strike: func(b *basin, length time.Duration) {
			b.admit(faultproxy.Garbage)
			b.proxy.Garble()
			b.pause(length)
		},
	}, {
		name: "the server restarts at once", length: 300 * time.Millisecond, rare: true,
		causes: broken + "|" + shutdown + "|" + noDial, // a busy machine takes its time to start a server
		strike: func(b *basin, length time.Duration) {
			b.server.Stop(b.t, "immediate")
			b.pause(length)
			b.server.Start(b.t)
		},
	}, {
		name: "the postmaster is killed", length: 300 * time.Millisecond, rare: true,
		causes: broken + "|" + shutdown + "|" + noDial, // a busy machine takes its time to start a server
		strike: func(b *basin, length time.Duration) {
			b.server.Kill(b.t)
			b.pause(length)
			b.server.Start(b.t)
		},
	}, {
		name: "others take max_connections", length: 1500 * time.Millisecond,
		causes: broken + "|pool timeout: (server says 53300|connection refused)|" + full,
		strike: (*basin).crowd,
	},
}

// pause lets a fault last.
func (b *basin) pause(length time.Duration) { time.Sleep(length) }

func (b *basin) admit(a faultproxy.Admission) {
	b.t.Helper()
	require.NoError(b.t, b.proxy.Admit(a))
}

func (b *basin) cutReplies(length time.Duration, how faultproxy.Ending) {
	for end := time.Now().Add(length); time.Now().Before(end); {
		b.proxy.CutAfter(faultproxy.ToClient, b.rnd.IntN(3000), how)
		b.pause(time.Duration(b.rnd.IntN(40)) * time.Millisecond)
	}
}

// crowd has others take every connection that the server has, and then give a few back, fewer than the pool may have.
func (b *basin) crowd(length time.Duration) {
	others, err := sql.Open("postgres", pooltest.AddParams(b.t, b.server.DSN(), "application_name=others"))
	require.NoError(b.t, err)
	defer func() { assert.NoError(b.t, others.Close()) }()
	others.SetMaxIdleConns(0)
	var held []*sql.Conn
	defer func() {
		for _, c := range held {
			assert.NoError(b.t, c.Close())
		}
	}()
	b.admit(faultproxy.Refuse) // else the pool would be quicker
	b.proxy.Cut(faultproxy.RST)
	for full := 0; full < 10; {
		c, err := others.Conn(b.t.Context())
		if err != nil {
			require.True(b.t, pooltest.IsCode(err, "53300"), "%v", err)
			full++ // though one that was cut may be ending still
			b.pause(5 * time.Millisecond)
			continue
		}
		held = append(held, c)
	}
	b.admit(faultproxy.Forward)
	b.pause(2 * length / 3)
	few := len(held) - b.limit/2
	for _, c := range held[few:] {
		assert.NoError(b.t, c.Close())
	}
	held = held[:few]
	b.pause(length / 3)
}
