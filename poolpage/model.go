package poolpage

import (
	"fmt"
	"strconv"
	"time"
)

// Report is what the page knows, as JSON. Fields may be added; those that there are keep their meaning.
type Report struct {
	At    time.Time `json:"at"`
	Pools []Pool    `json:"pools"`
}

// Seconds is a duration. It is a number in JSON, to the microsecond.
type Seconds float64

// MarshalJSON writes the number.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(int64(s*1e6+0.5))/1e6, 'f', -1, 64), nil
}

func seconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// String is the duration with its unit, in three digits.
func (s Seconds) String() string {
	switch d := time.Duration(float64(s) * float64(time.Second)); {
	case d <= 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(s)*1e3)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", float64(s))
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(s))
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// Pool is one pool at one moment.
type Pool struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // why the handle cannot be shown; nothing else is set then

	Level   Level  `json:"level"`
	Verdict string `json:"verdict"` // what is going on, in a sentence

	Limit       int     `json:"limit"` // connection_limit
	Open        int     `json:"open"`  // in use and idle
	InUse       int     `json:"in_use"`
	Idle        int     `json:"idle"`
	Opening     int     `json:"opening"` // dials in flight
	Waiting     int     `json:"waiting"` // callers
	LongestWait Seconds `json:"longest_wait_seconds"`
	Order       string  `json:"order"` // "first come, first served" or "newest first"

	Settings Settings `json:"settings"`
	Totals   Totals   `json:"totals"`
	Slots    []Slot   `json:"slots"`
	Waiters  []Waiter `json:"waiters"` // longest first, at most a hundred
	Shapes   []Shape  `json:"shapes"`  // slow or failed queries, the longest sum first, at most thirty
	Leaks    []Leak   `json:"leaks"`   // newest first, at most fifty
	Events   []Event  `json:"events"`  // newest first, at most a hundred
	History  []Second `json:"history"` // oldest first, at most 300
	Server   *Server  `json:"server,omitempty"`
	Fleet    *Fleet   `json:"fleet,omitempty"` // with fleet_limit
}

// Fleet is what this process knows of its fleet.
type Fleet struct {
	Limit   int           `json:"limit"`  // fleet_limit, the lowest of the processes
	Held    int           `json:"held"`   // connections of this process
	Wanted  int           `json:"wanted"` // that it lacks
	Members []FleetMember `json:"members"`
}

// FleetMember is a process of the fleet as it was seen within the last second.
type FleetMember struct {
	Name string `json:"name"` // application_name and address, as far as the server shows them
	PID  int64  `json:"backend_pid"`
	Held int    `json:"held"`
	Self bool   `json:"self"`
}

// Level says how a pool does.
type Level string

// The values of [Level].
const (
	LevelOK      Level = "ok"
	LevelLook    Level = "look"    // worth a look: leaks, dials that failed, timeouts in the last minute
	LevelTrouble Level = "trouble" // callers wait for longer than a second or in vain, or nothing can be opened
	LevelClosed  Level = "closed"
)

// Settings are those that tell how to read the rest. 0 is none.
type Settings struct {
	PoolTimeout        Seconds `json:"pool_timeout_seconds"`
	SlowQueryThreshold Seconds `json:"slow_query_threshold_seconds"`
	LeakThreshold      Seconds `json:"leak_threshold_seconds"`
	LeakReclaimAfter   Seconds `json:"leak_reclaim_after_seconds"`
	MaxIdle            int     `json:"max_idle_connections"`
	MinConnections     int     `json:"min_connections"`
	MaxWaiting         int     `json:"max_waiting"`
}

// Totals count from the opening of the pool, as lifeguard.Stats does.
type Totals struct {
	Acquired    uint64  `json:"acquired"`
	Waits       uint64  `json:"waits"`
	Timeouts    uint64  `json:"timeouts"`
	Canceled    uint64  `json:"canceled"`
	Opened      uint64  `json:"opened"`
	Closed      uint64  `json:"closed"`
	DialErrors  uint64  `json:"dial_errors"`
	Leaks       uint64  `json:"leaks"`
	LostRows    uint64  `json:"lost_rows"`
	Reclaimed   uint64  `json:"reclaimed"`
	SlowQueries uint64  `json:"slow_queries"`
	WaitTime    Seconds `json:"wait_time_seconds"`
}

// Slot is the right to one connection: one that is open, or is being opened. Slots that nobody has asked for are not
// listed; there are Limit - len(Slots) of them.
type Slot struct {
	Serial uint64         `json:"serial,omitempty"` // of the connection, counted from the opening of the pool; 0 while there is none
	State  string         `json:"state"`            // idle, running, held, idle in a transaction, leaked, checking, opening, closing, token missing; others may be added
	For    Seconds        `json:"for_seconds"`      // how long it has been in this state; of a leak, how long it has been held
	Age    Seconds        `json:"age_seconds"`      // since the connection was opened, or since its dial began
	PID    int64          `json:"backend_pid,omitempty"`
	Holder *Holder        `json:"holder,omitempty"`
	Server *ServerSession `json:"server,omitempty"` // with WithServerView
}

// Holder is a caller that has a connection.
type Holder struct {
	Caller     string  `json:"caller"` // function, file and line; "" if the checkout's stack was not captured
	Held       Seconds `json:"held_seconds"`
	Unused     Seconds `json:"last_used_seconds"` // since its last operation began
	Operations int     `json:"operations"`
	InTx       bool    `json:"in_transaction"`
	Running    bool    `json:"running"`
	Leaked     bool    `json:"leaked"`
	Query      string  `json:"query,omitempty"` // the last one, without literals
	TraceID    string  `json:"trace_id,omitempty"`
	Stack      []Frame `json:"stack,omitempty"`
}

// Frame is a call of a stack.
type Frame struct {
	Function string `json:"function"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
}

// Waiter is a caller in the queue.
type Waiter struct {
	Waited Seconds `json:"waited_seconds"`
	Left   Seconds `json:"left_seconds"` // until it gives up; 0 for never
	Caller string  `json:"caller"`
	Stack  []Frame `json:"stack,omitempty"`
}

// Shape is a query, whatever its literals, that was slow or failed.
type Shape struct {
	Query     string    `json:"query"` // without literals; the operation where there is none, such as COMMIT
	Count     uint64    `json:"count"` // that took at least slow_query_threshold; the durations are theirs
	Mean      Seconds   `json:"mean_seconds"`
	P95       Seconds   `json:"p95_seconds"` // to an eighth
	Max       Seconds   `json:"max_seconds"`
	Errors    uint64    `json:"errors"` // that failed, slow or not
	LastError string    `json:"last_error,omitempty"`
	Last      time.Time `json:"last"`
	Caller    string    `json:"caller"` // of the last one
}

// Leak is a report about a connection that was not returned.
type Leak struct {
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"`    // held, lost rows
	Outcome string    `json:"outcome"` // still held, returned, taken back
	Holder
}

// Event is something that happened to the pool.
type Event struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Kind  string    `json:"kind"` // dial failed, connected again, limit changed, reset; others may be added
	Text  string    `json:"text"`
	Count int       `json:"count"`
}

// Second is a look of the past. Counts are of the second before it.
type Second struct {
	At         time.Time `json:"at"`
	Limit      int       `json:"limit"`
	Open       int       `json:"open"`
	InUse      int       `json:"in_use"`
	Waiting    int       `json:"waiting"`
	Acquired   int       `json:"acquired"`
	Waits      int       `json:"waits_ended"`
	WaitP50    Seconds   `json:"wait_p50_seconds"` // of the waits that ended in this second, to an eighth; 0 if there were none
	WaitP99    Seconds   `json:"wait_p99_seconds"`
	Timeouts   int       `json:"timeouts"`
	DialErrors int       `json:"dial_errors"`
}

// Server is how pg_stat_activity was asked.
type Server struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

// ServerSession is what PostgreSQL says of a connection.
type ServerSession struct {
	State     string   `json:"state"`
	For       Seconds  `json:"for_seconds"`
	WaitEvent string   `json:"wait_event,omitempty"` // its type and name, such as Lock: transactionid
	BlockedBy []string `json:"blocked_by,omitempty"`
}
