package fleet

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/go-lifeguard/lifeguard/internal/libpq"
)

const (
	// answerTime is how long the server has for an answer. It waits for no lock, so a longer one is a network that is cut.
	answerTime = 5 * time.Second

	// connectTime is how long a connect may take: one that was begun in a network that is cut must not outlast the cut.
	connectTime = 3 * time.Second

	byeTime = time.Second
)

var (
	// ErrStandby says that the server takes no writes.
	ErrStandby = errors.New("lifeguard: fleet_limit needs a server that takes writes, and this one is a standby, which cannot " +
		"pass on what the processes of a fleet say to each other: connect to the primary, or leave fleet_limit out")

	// ErrPooler says that consecutive statements do not reach the same session.
	ErrPooler = errors.New("lifeguard: fleet_limit needs sessions of its own, and a pooler in transaction mode stands before the " +
		"server: use its session mode, or leave fleet_limit out, as the pooler's default_pool_size is the same kind of limit")

	errClosed = errors.New("lifeguard: the fleet session is closed")
)

// session is one fleet session. It belongs to the goroutine that runs the fleet.
type session struct {
	room
	conn   driver.Conn
	socket net.Conn // nil where lib/pq does not show it
	id     ID
	badge  int32
	start  string // of the server
	inbox  []heard
}

type heard struct {
	from ID
	say  Say
}

// connect opens a fleet session.
func connect(ctx context.Context, connector driver.Connector, name string, limit int) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	s, err := dial(ctx, connector)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, s.abort)
	if err = s.settle(ctx, connector, name, limit); err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func dial(ctx context.Context, connector driver.Connector) (*session, error) {
	ctx, d := libpq.WithDial(ctx)
	conn, err := connector.Connect(ctx)
	socket, inTime := d.Settled()
	if err == nil && !inTime {
		_ = conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		d.HangUp()
		return nil, libpq.SentNothing(err)
	}
	return &session{conn: conn, socket: socket}, nil
}

// settle finds out where the session is, and takes its place in the fleet.
func (s *session) settle(ctx context.Context, connector driver.Connector, name string, limit int) error {
	results, err := s.query(whoami)
	if err != nil {
		return err
	}
	var database int64
	var version int
	fields := strings.SplitN(one(results), " ", 6)
	if len(fields) < 6 {
		return fmt.Errorf("lifeguard: the server does not say who it is: %q", fields)
	}
	pid, err := strconv.ParseInt(fields[0], 10, 64)
	if err == nil {
		database, err = strconv.ParseInt(fields[1], 10, 64)
	}
	if err == nil {
		version, err = strconv.Atoi(fields[2])
	}
	if err != nil {
		return err
	}
	if fields[3] != "f" && fields[3] != "false" {
		return ErrStandby
	}
	s.id, s.start = ID(pid), fields[4]
	if told, ok := libpq.BackendPID(s.conn); ok && told != pid {
		if err := s.lookForPooler(ctx, connector); err != nil {
			return err
		}
	}
	if name == "" {
		name = fields[5]
	}
	s.room, s.badge = newRoom(name, database), -1-rand.Int32()
	pq.SetNotificationHandler(s.conn, s.notified)
	_, err = s.query(s.room.settle(limit, s.badge, version))
	return err
}

func one(results [][]string) string {
	if len(results) == 0 || len(results[0]) == 0 {
		return ""
	}
	return results[0][0]
}

// lookForPooler finds out whether the pooler before the server gives each transaction another server connection. A second
// session with an open transaction takes the one that the first has just used.
func (s *session) lookForPooler(ctx context.Context, connector driver.Connector) error {
	other, err := dial(ctx, connector)
	if err != nil {
		return err
	}
	defer other.close()
	defer context.AfterFunc(ctx, other.abort)()
	if _, err := other.query("BEGIN; SELECT pg_backend_pid()::text"); err != nil {
		return err
	}
	results, err := s.query("SELECT pg_backend_pid()::text")
	if err == nil && one(results) != strconv.FormatInt(int64(s.id), 10) {
		return ErrPooler
	}
	return err
}

func (s *session) notified(n *pq.Notification) {
	if say, ok := parse(n.Extra); ok {
		s.inbox = append(s.inbox, heard{ID(n.BePid), say})
	}
}

// query runs statements and gives the first column of each result, without those of statements that have none.
func (s *session) query(text string) (results [][]string, err error) {
	s.deadline(answerTime)
	defer s.deadline(0)
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("lifeguard: the driver panicked in the fleet session: %v", v)
		}
	}()
	queryer, ok := s.conn.(driver.QueryerContext)
	if !ok {
		return nil, fmt.Errorf("lifeguard: a fleet session cannot run on a %T", s.conn)
	}
	rows, err := queryer.QueryContext(context.Background(), text, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	sets, _ := rows.(driver.RowsNextResultSet)
	for {
		if columns := len(rows.Columns()); columns > 0 {
			set := []string{}
			values := make([]driver.Value, columns)
			for err = rows.Next(values); err == nil; err = rows.Next(values) {
				if b, ok := values[0].([]byte); ok {
					values[0] = string(b)
				}
				set = append(set, fmt.Sprint(values[0]))
			}
			if err != io.EOF {
				return nil, err
			}
			results = append(results, set)
		}
		if sets == nil || !sets.HasNextResultSet() {
			return results, nil
		}
		if err := sets.NextResultSet(); err == io.EOF {
			return results, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// exchange carries out what a member asks.
func (s *session) exchange(a Ask) (got Answer, err error) {
	from := 0
	if a.Take > 0 {
		from = rand.IntN(a.Limit) // members that look at the same time look in different places
	}
	results, err := s.query(s.room.exchange(a, from))
	if err != nil {
		return Answer{}, err
	}
	next := func() (set []string) {
		if len(results) > 0 {
			set, results = results[0], results[1:]
		}
		return set
	}
	var lost []int
	if len(a.Claim) > 0 {
		next()
		valid := next()
		for i, c := range a.Claim {
			ok := slices.Contains(valid, strconv.Itoa(i))
			got.Claimed = append(got.Claimed, ok)
			if !ok {
				lost = append(lost, c.Number)
			}
		}
	}
	if len(a.Release) > 0 {
		next()
	}
	if a.Take > 0 {
		for _, text := range next() {
			n, err := strconv.Atoi(text)
			if err != nil {
				return Answer{}, err
			}
			got.Taken = append(got.Taken, n)
		}
	}
	for range a.Say {
		next()
	}
	if a.Look {
		if got.Peers, err = s.peers(next()); err != nil {
			return Answer{}, err
		}
	}
	if len(lost) > 0 {
		// The token may be another member's by now.
		if _, err := s.query(s.room.release(lost)); err != nil {
			return Answer{}, err
		}
	}
	return got, nil
}

// peers reads the rows of a look.
func (s *session) peers(rows []string) ([]Peer, error) {
	peers := make([]Peer, 0, len(rows))
	for _, row := range rows {
		fields := strings.SplitN(row, " ", 5)
		if len(fields) < 4 {
			return nil, fmt.Errorf("lifeguard: a member of the fleet reads %q", row)
		}
		var p Peer
		var self int64
		if _, err := fmt.Sscan(strings.Join(fields[:4], " "), &p.ID, &p.Limit, &p.Held, &self); err != nil {
			return nil, err
		}
		if ID(self) != s.id {
			return nil, ErrPooler
		}
		if len(fields) == 5 {
			p.Name = fields[4]
		}
		peers = append(peers, p)
	}
	if !slices.ContainsFunc(peers, func(p Peer) bool { return p.ID == s.id }) {
		return nil, ErrPooler // its own lock is not there
	}
	return peers, nil
}

// leave says goodbye and closes the session.
func (s *session) leave() {
	_, _ = s.query(fmt.Sprintf("SELECT pg_notify('%s', '%s')", s.channel, Say{Word: Left})) // the others will see it anyway
	s.close()
}

func (s *session) close() {
	s.deadline(byeTime)
	_ = s.conn.Close() // of a session that is of no more use
	if s.socket != nil {
		_ = s.socket.Close()
	}
}

// deadline bounds what happens on the socket; 0 for not at all.
func (s *session) deadline(d time.Duration) {
	if s.socket == nil {
		return
	}
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = s.socket.SetDeadline(t) // a socket that is closed says so itself
}

// abort ends what runs.
func (s *session) abort() {
	if s.socket != nil {
		_ = s.socket.SetDeadline(time.Unix(1, 0))
	}
}

// input gives a channel that is closed when the server has said something, nil where that cannot be told. done ends the
// wait, and has to be called before the next query.
func (s *session) input() (said <-chan struct{}, done func()) {
	if s.socket == nil || !libpq.Tells(s.socket) {
		return nil, func() {}
	}
	there, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with done at the latest
		defer close(ended)
		if libpq.AwaitInput(s.socket) {
			close(there)
		}
	}()
	return there, func() {
		_ = s.socket.SetReadDeadline(time.Unix(1, 0))
		<-ended
		_ = s.socket.SetReadDeadline(time.Time{})
	}
}
