package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// finding is something to change or to know.
type finding struct {
	Level  string `json:"level"` // problem, warning or note; a problem makes the exit status 1
	Text   string `json:"text"`
	Change string `json:"change,omitempty"`
}

// usage is how many connections one user has with one application.
type usage struct {
	User        string `json:"user"`
	Application string `json:"application"`
	Connections int    `json:"connections"`
	Active      int    `json:"active"`
}

// setting is a limit or timeout of the server, as the server writes it.
type setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// report is what check found. Its JSON is documented in docs/cli.md.
type report struct {
	System      string      `json:"system"`
	Pool        string      `json:"pool"`
	Version     string      `json:"version"`
	Instances   int         `json:"instances"`
	Needed      int         `json:"needed"`        // what the instances may open together
	Room        *int        `json:"room"`          // connections the server has for this user; null if that cannot be told
	Fits        bool        `json:"fits"`          // no finding is a problem
	TLS         string      `json:"tls"`           // protocol and cipher, none, or why it cannot be told
	Pooler      string      `json:"pooler"`        // none, or what was seen
	Dial        float64     `json:"dial_ms"`       // median of the dials
	RoundTrip   float64     `json:"round_trip_ms"` // median of the round trips
	Parameters  []parameter `json:"parameters"`    //
	Limits      []setting   `json:"limits"`        //
	Timeouts    []setting   `json:"timeouts"`      // durations, 0 for none
	Connections []usage     `json:"connections"`   // without check's own
	Findings    []finding   `json:"findings"`      //
	source      *source     //
}

func (r *report) find(level, change, format string, args ...any) {
	r.Findings = append(r.Findings, finding{Level: level, Text: fmt.Sprintf(format, args...), Change: change})
	if level == "problem" {
		r.Fits = false
	}
}

func checkCommand() *cobra.Command {
	var asJSON bool
	var instances int
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "check [DSN|-]",
		Short: "Say whether a service's settings fit its server, and what to change",
		Args:  oneDSN,
		RunE: func(c *cobra.Command, args []string) error {
			if instances < 1 {
				return usagef("--instances is the number of processes with this DSN; write 1 or more")
			}
			if timeout <= 0 {
				return usagef("--timeout must be longer than nothing; write for example --timeout=10s")
			}
			s, err := readSource(c, args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			r, err := within(ctx, func() (*report, error) { return check(ctx, s, instances) })
			if err != nil {
				return fmt.Errorf("check: %w", s.explain(err))
			}
			if asJSON {
				err = writeJSON(c.OutOrStdout(), r)
			} else {
				err = r.write(c.OutOrStdout())
			}
			if err == nil && !r.Fits {
				err = errUnfit
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().IntVar(&instances, "instances", 1, "processes that will run with this DSN")
	c.Flags().DurationVar(&timeout, "timeout", 20*time.Second, "the longest that everything may take")
	return c
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

const measured = 5 // dials, and round trips

func check(ctx context.Context, s *source, instances int) (*report, error) {
	if err := s.mustExist(); err != nil {
		return nil, err
	}
	r := &report{System: s.system, Pool: s.config.PoolName, Instances: instances, Fits: true, Pooler: "none", Parameters: s.parameters(), source: s,
		Limits: []setting{}, Timeouts: []setting{}, Connections: []usage{}, Findings: []finding{}}
	r.Needed, _ = r.demand()
	db, err := sql.Open(s.system, s.driverDSN)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.SetMaxIdleConns(-1) // each Conn dials
	var dials, trips []float64
	for range measured {
		began := time.Now()
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		dials = append(dials, milliseconds(began))
		if len(dials) < measured {
			conn.Close()
			continue
		}
		defer conn.Close()
		for range measured + 1 {
			began := time.Now()
			if _, err := conn.ExecContext(ctx, "SELECT 1"); err != nil {
				return nil, err
			}
			trips = append(trips, milliseconds(began))
		}
		if err := r.look(ctx, conn); err != nil {
			return nil, err
		}
	}
	r.Dial, r.RoundTrip = median(dials), median(trips[1:])
	return r, nil
}

func (r *report) look(ctx context.Context, conn *sql.Conn) error {
	switch r.source.system {
	case postgres:
		return r.lookPostgres(ctx, conn)
	case mysql:
		return r.lookMySQL(ctx, conn)
	}
	return r.lookSQLite(ctx, conn)
}

// demand is what the instances may open together, and how it is reckoned. In a fleet each has its fleet session besides,
// and a dial that has no token yet.
func (r *report) demand() (n int, sum string) {
	c := r.source.config
	n, sum = r.Instances*c.ConnectionLimit, fmt.Sprintf("%d × connection_limit %d", r.Instances, c.ConnectionLimit)
	if c.FleetLimit > 0 {
		if c.FleetLimit < n {
			n, sum = c.FleetLimit, fmt.Sprintf("fleet_limit %d", c.FleetLimit)
		}
		n, sum = n+2*r.Instances, fmt.Sprintf("%s + 2 × %d processes", sum, r.Instances)
	}
	return n, fmt.Sprintf("%s = %d", sum, n)
}

// fit compares what is needed with the room there is.
func (r *report) fit(room int, whose string) {
	if r.Room == nil || room < *r.Room {
		r.Room = &room
	}
	if r.Needed <= room {
		return
	}
	change := fmt.Sprintf("raise the server's limit by %d, or put a pooler between", r.Needed-room)
	name, most := "connection_limit", room/r.Instances
	if r.source.config.FleetLimit > 0 {
		name, most = "fleet_limit", room-2*r.Instances
	}
	if most > 0 {
		change = fmt.Sprintf("write %s=%d, or %s", name, most, change)
	}
	_, sum := r.demand()
	r.find("problem", change, "%s connections do not fit into the %d of %s", sum, max(room, 0), whose)
}

// idleTimeout warns of a server that closes idle connections before the pool does.
func (r *report) idleTimeout(name string, after time.Duration) {
	c := r.source.config
	if after == 0 || c.MaxIdleConnectionLifetime > 0 && c.MaxIdleConnectionLifetime < after ||
		c.KeepaliveInterval > 0 && c.KeepaliveInterval < after {
		return
	}
	r.find("warning", "write max_idle_connection_lifetime="+period(after*4/5),
		"the server closes a connection that is idle for %s (%s); the pool keeps it longer, and a caller has to open another",
		period(after), name)
}

// idleInTransaction warns of a server that ends a forgotten transaction before lifeguard reports it.
func (r *report) idleInTransaction(name string, after time.Duration) {
	if after == 0 {
		return
	}
	if c := r.source.config; c.LeakThreshold == 0 || c.LeakThreshold >= after {
		r.find("warning", "write leak_threshold="+period(after/2),
			"the server ends a transaction that is idle for %s (%s), before lifeguard reports who forgot it", period(after), name)
	}
}

func (r *report) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "server\t%s\npool\t%s\nTLS\t%s\npooler\t%s\n", r.Version, r.Pool, r.TLS, r.Pooler)
	fmt.Fprintf(w, "dial\t%.2f ms, median of %d\nround trip\t%.2f ms, median of %d\n", r.Dial, measured, r.RoundTrip, measured)
	fmt.Fprint(w, "\nPARAMETER\tVALUE\tFROM\n")
	for _, p := range r.Parameters {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.Value, p.From)
	}
	for _, group := range []struct {
		title string
		all   []setting
	}{{"SERVER'S LIMIT", r.Limits}, {"SERVER'S TIMEOUT", r.Timeouts}} {
		if len(group.all) > 0 {
			fmt.Fprintf(w, "\n%s\tVALUE\n", group.title)
		}
		for _, s := range group.all {
			fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Value)
		}
	}
	switch {
	case r.System == sqlite:
	case len(r.Connections) == 0:
		fmt.Fprintln(w, "\nno other connections")
	default:
		fmt.Fprint(w, "\nUSER\tAPPLICATION\tCONNECTIONS\tACTIVE\n")
		for _, u := range r.Connections {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", u.User, u.Application, u.Connections, u.Active)
		}
	}
	if r.Room != nil {
		_, sum := r.demand()
		fmt.Fprintf(w, "\nneeded\t%s\nroom\t%d\n", sum, max(*r.Room, 0))
	}
	fmt.Fprintln(w)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %s\n", f.Level, f.Text)
		if f.Change != "" {
			fmt.Fprintf(w, "  change: %s\n", f.Change)
		}
	}
	verdict := "it fits"
	if !r.Fits {
		verdict = "it does not fit"
	}
	fmt.Fprintln(w, verdict)
	return w.Flush()
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since)) / float64(time.Millisecond)
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
