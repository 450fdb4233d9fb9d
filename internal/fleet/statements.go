package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A fleet's advisory locks are pairs of integers. The first is the fleet. The second is a token from 1 on; or presence and
// the member's limit; or, where it is negative, the badge of a fleet session.
const presence = 1_000_000

// MaxLimit is the highest token there can be.
const MaxLimit = presence/10 - 1

// room is where a fleet's locks and words are on a server.
type room struct {
	class    int32
	database int64 // its oid
	channel  string
}

func newRoom(name string, database int64) room {
	sum := sha256.Sum256([]byte("lifeguard fleet " + name))
	class := int32(binary.BigEndian.Uint32(sum[:]))
	return room{class: class, database: database, channel: fmt.Sprintf("lifeguard_fleet_%08x", uint32(class))}
}

// timeouts are the settings of every session of a fleet. A server notices within 11 seconds that a client's host is gone.
const timeouts = `set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
	set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '11000', false)`

// whoami asks a server for its identity. pg_postmaster_start_time tells two servers apart.
const whoami = `SELECT concat_ws(' ', pg_backend_pid(), (SELECT oid FROM pg_database WHERE datname = current_database()),
	current_setting('server_version_num'), pg_is_in_recovery(),
	extract(epoch FROM pg_postmaster_start_time())::text, current_database())`

// settle makes a new session one of the fleet.
func (r room) settle(limit int, badge int32, version int) string {
	idle := ""
	if version >= 140000 {
		idle = "set_config('idle_session_timeout', '0', false), "
	}
	return fmt.Sprintf(`SELECT %sset_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false), %s;
LISTEN %s; SELECT pg_try_advisory_lock_shared(%d, %d), pg_try_advisory_lock_shared(%[4]d, %[6]d)`,
		idle, timeouts, r.channel, r.class, presence+limit, badge)
}

// locks are the rows of pg_locks that are the fleet's.
func (r room) locks() string {
	return fmt.Sprintf(`FROM pg_locks l WHERE l.locktype = 'advisory' AND l.database = %d AND l.classid = %d AND l.objsubid = 2
	AND l.mode = 'ShareLock' AND l.granted`, r.database, uint32(r.class))
}

// exchange is the text of an Ask. Its statements run one after another, each with its own result.
func (r room) exchange(a Ask, from int) string {
	var b strings.Builder
	if len(a.Claim) > 0 {
		numbers, conns := make([]string, len(a.Claim)), make([]string, len(a.Claim))
		for i, c := range a.Claim {
			numbers[i] = strconv.Itoa(c.Number)
			conns[i] = fmt.Sprintf("(%d, %d, %d, %d)", i, c.Number, c.Conn.PID, uint32(c.Conn.Badge))
		}
		// The look comes after the lock: a connection that still holds the token then has held it all the time.
		fmt.Fprintf(&b, "SELECT pg_try_advisory_lock_shared(%d, k) FROM unnest(ARRAY[%s]) k;\n", r.class, strings.Join(numbers, ","))
		fmt.Fprintf(&b, "WITH l AS MATERIALIZED (SELECT l.pid, l.objid::bigint AS objid %s)\n"+
			"SELECT c.i::text FROM (VALUES %s) c (i, number, pid, badge) WHERE EXISTS (SELECT 1 FROM l WHERE l.pid = c.pid AND l.objid = c.number)\n"+
			"	AND EXISTS (SELECT 1 FROM l WHERE l.pid = c.pid AND l.objid = c.badge);\n", r.locks(), strings.Join(conns, ", "))
	}
	if len(a.Release) > 0 {
		b.WriteString(r.release(a.Release))
	}
	if a.Take > 0 {
		// Exclusive first: it is granted only where nobody holds the token. No lock is ever waited for.
		fmt.Fprintf(&b, `SELECT k::text FROM (SELECT 1 + (g + %d) %% %d AS k FROM generate_series(0, %[2]d - 1) g) t
	WHERE CASE WHEN k = ANY(ARRAY[%[5]s]::int[]) THEN false WHEN pg_try_advisory_lock(%[3]d, k) THEN CASE WHEN pg_try_advisory_lock_shared(%[3]d, k) THEN pg_advisory_unlock(%[3]d, k)
	ELSE false END ELSE false END LIMIT %[4]d;
`, from, a.Limit, r.class, a.Take, list(a.Own))
	}
	for _, s := range a.Say {
		fmt.Fprintf(&b, "SELECT pg_notify('%s', '%s');\n", r.channel, s)
	}
	if a.Look {
		// What another role may not see is NULL, the address as well as backend_start, which always is something.
		fmt.Fprintf(&b, `WITH l AS MATERIALIZED (SELECT l.pid, l.objid::bigint AS objid %s)
SELECT concat_ws(' ', p.pid, p.objid - %d, (SELECT count(*) FROM l t WHERE t.pid = p.pid AND t.objid < %[2]d), pg_backend_pid(),
	(SELECT concat_ws(' ', nullif(a.application_name, ''), CASE WHEN a.backend_start IS NOT NULL THEN coalesce(host(a.client_addr), 'local') END)
		FROM pg_stat_get_activity(p.pid::int) a))
FROM l p WHERE p.objid BETWEEN %[2]d AND %d ORDER BY p.pid;
`, r.locks(), presence, presence+MaxLimit)
	}
	return b.String()
}

func (r room) release(numbers []int) string {
	return fmt.Sprintf("SELECT pg_advisory_unlock_shared(%d, k) FROM unnest(ARRAY[%s]) k;\n", r.class, list(numbers))
}

func list(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// admission has a new connection take its token, and shows whether the fleet session holds it still. The look comes after
// the locks, on which it depends.
func (r room) admission(number int, id ID, badge int32) string {
	return fmt.Sprintf(`SELECT concat_ws(' ', n.pid, n.start, (SELECT count(*) %s
	AND n.token AND n.badge AND l.pid = %d AND l.objid::bigint IN (%d, %d)), n.set)
FROM (SELECT pg_backend_pid() AS pid, extract(epoch FROM pg_postmaster_start_time())::text AS start,
	pg_try_advisory_lock_shared(%[5]d, %[3]d) AS token, pg_try_advisory_lock_shared(%[5]d, %[6]d) AS badge,
	concat_ws('/', %[7]s) AS set OFFSET 0) n`, r.locks(), id, number, uint32(badge), r.class, badge, timeouts)
}

var words = map[Word]string{Here: "here", Left: "left", Free: "free", Need: "need"}

// String is the sentence as it travels.
func (s Say) String() string {
	if s.Word != Need {
		return words[s.Word]
	}
	return fmt.Sprintf("need %d %d %d", s.Ticket, s.Held, s.Want)
}

// parse reads a sentence. One that it does not know is of a member with another version.
func parse(text string) (s Say, ok bool) {
	word, rest, _ := strings.Cut(text, " ")
	for w, name := range words {
		if name == word {
			s.Word = w
		}
	}
	if s.Word == Need {
		n, err := fmt.Sscanf(rest, "%d %d %d", &s.Ticket, &s.Held, &s.Want)
		if n < 3 || err != nil || s.Ticket > math.MaxInt64 || s.Held < 0 || s.Want < 0 {
			return Say{}, false
		}
	}
	return s, s.Word != 0
}
