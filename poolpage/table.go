package poolpage

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// writeTable shows the report in a terminal.
func writeTable(w io.Writer, r Report) {
	var b bytes.Buffer
	for i := range r.Pools {
		if i > 0 {
			b.WriteByte('\n')
		}
		writePool(&b, &r.Pools[i], r)
	}
	_, _ = w.Write(b.Bytes()) // the client has gone
}

func writePool(b *bytes.Buffer, p *Pool, r Report) {
	fmt.Fprintf(b, "%s  %s  %s\n", printable(p.Name), strings.ToUpper(string(p.Level)), r.At.Format("2006-01-02 15:04:05 UTC"))
	fmt.Fprintf(b, "%s\n", printable(p.Verdict))
	if p.Error != "" {
		return
	}
	fmt.Fprintf(b, "\nlimit %d  open %d  in use %d  idle %d  opening %d  waiting %d (%s, longest %s)\n",
		p.Limit, p.Open, p.InUse, p.Idle, p.Opening, p.Waiting, p.Order, p.LongestWait)
	fmt.Fprintf(b, "timeouts %d  dial errors %d  leaks %d  slow queries %d  checkouts %d\n",
		p.Totals.Timeouts, p.Totals.DialErrors, p.Totals.Leaks, p.Totals.SlowQueries, p.Totals.Acquired)
	if f := p.Fleet; f != nil {
		fmt.Fprintf(b, "fleet limit %d  held here %d  wanted %d  processes %d\n", f.Limit, f.Held, f.Wanted, len(f.Members))
	}
	if p.Server != nil && p.Server.Error != "" {
		fmt.Fprintf(b, "server: %s\n", printable(p.Server.Error))
	}
	t := table{b}
	t.write("connections", "#\tSTATE\tFOR\tHELD\tOPS\tCALLER\tQUERY\tSERVER", len(p.Slots), func(i int) []any {
		s := &p.Slots[i]
		server := ""
		if s.Server != nil {
			server = strings.TrimSpace(s.Server.State + " " + s.Server.WaitEvent)
			if len(s.Server.BlockedBy) > 0 {
				server += ", blocked by " + strings.Join(s.Server.BlockedBy, " and ")
			}
		}
		if s.Holder == nil {
			return []any{s.Serial, s.State, s.For, "", "", "", "", server}
		}
		return []any{s.Serial, s.State, s.For, s.Holder.Held, s.Holder.Operations, s.Holder.Caller, short(s.Holder.Query), server}
	})
	if p.Fleet != nil {
		t.write("fleet", "PID\tHELD\tPROCESS", len(p.Fleet.Members), func(i int) []any {
			m := &p.Fleet.Members[i]
			if m.Self {
				return []any{m.PID, m.Held, m.Name + ", this process"}
			}
			return []any{m.PID, m.Held, m.Name}
		})
	}
	t.write("queue", "WAITED\tLEFT\tCALLER", len(p.Waiters), func(i int) []any {
		return []any{p.Waiters[i].Waited, p.Waiters[i].Left, p.Waiters[i].Caller}
	})
	t.write("slow and failed queries", "COUNT\tMEAN\tP95\tMAX\tERRORS\tCALLER\tQUERY", len(p.Shapes), func(i int) []any {
		s := &p.Shapes[i]
		return []any{s.Count, s.Mean, s.P95, s.Max, s.Errors, s.Caller, short(s.Query)}
	})
	t.write("leaks", "AT\tKIND\tHELD\tOUTCOME\tCALLER\tQUERY", len(p.Leaks), func(i int) []any {
		l := &p.Leaks[i]
		return []any{l.At.Format("15:04:05"), l.Kind, l.Held, l.Outcome, l.Caller, short(l.Query)}
	})
	t.write("events", "LAST\tTIMES\tKIND\tWHAT", len(p.Events), func(i int) []any {
		e := &p.Events[i]
		return []any{e.Last.Format("15:04:05"), e.Count, e.Kind, e.Text}
	})
}

type table struct{ b *bytes.Buffer }

// write writes a table with aligned columns; none without rows.
func (t table) write(name, head string, rows int, row func(int) []any) {
	if rows == 0 {
		return
	}
	fmt.Fprintf(t.b, "\n%s\n", name)
	w := tabwriter.NewWriter(t.b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  %s\n", head)
	for i := range rows {
		cells := row(i)
		texts := make([]string, len(cells))
		for j, cell := range cells {
			texts[j] = printable(fmt.Sprint(cell))
		}
		fmt.Fprintf(w, "  %s\n", strings.TrimRight(strings.Join(texts, "\t"), "\t"))
	}
	_ = w.Flush() // to memory
}

// short is what fits a line of a terminal.
func short(query string) string {
	if runes := []rune(query); len(runes) > 100 {
		return string(runes[:99]) + "…"
	}
	return query
}

// printable keeps what a query or a name may have from the terminal: line breaks and escape sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
